//! The scenarios in short: nodes leave, join, die and return with empty disks, die for good, or gain
//! shards without having room for them, and every promise is kept.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use floe_testnet::scenario::{Plan, Report};
use tokio::time::timeout;

/// Far longer than either takes.
const DEADLINE: Duration = Duration::from_secs(900);

/// Small enough for a busy machine.
fn short(plan: Plan) -> Plan {
    Plan {
        shards: 16,
        epoch: Duration::from_secs(8),
        store_every: Duration::from_millis(500),
        seed: 7,
        blob_bytes_max: 64 << 10,
        executable: Some(env!("CARGO_BIN_EXE_floe-testnet").into()),
        ..plan
    }
}

async fn run(plan: Plan) -> Report {
    let report = timeout(DEADLINE, Box::pin(plan.run())).await.expect("it comes to its end");
    let report = report.unwrap();
    assert!(report.broken.is_empty(), "{report}");
    let last = report.last.expect("the stores were opened");
    assert!(last.blobs > 0 && last.pairs == last.pairs_wanted, "{last:?}");
    report
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_come_and_go_and_every_blob_stays() {
    let plan = short(Plan::churn(6, 3));
    let report = run(plan).await;
    assert_eq!(report.epochs.len(), 4);
    let changes: Vec<_> = report.epochs.iter().flat_map(|row| row.changes.clone()).collect();
    for change in ["leaves", "joins", "dies", "returns empty"] {
        assert!(changes.iter().any(|happened| happened.ends_with(change)), "{change}");
    }
    assert!(report.repair.moved_pairs + report.repair.recovered_pairs > 0, "{:?}", report.repair);
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_die_one_by_one_and_every_blob_stays() {
    let report = run(short(Plan::attrition(7, 2))).await;
    let last = report.epochs.last().unwrap();
    assert_eq!(last.running, 5);
    assert!(report.repair.recovered_pairs > 0, "{:?}", report.repair);
}

#[tokio::test(flavor = "multi_thread")]
async fn gainers_without_room_do_not_stop_the_epochs() {
    let epoch = Duration::from_secs(6);
    let report = run(Plan { epoch, ..short(Plan::full(5, 1)) }).await;
    let stretched: Vec<_> = report.epochs.iter().filter(|row| row.returned > 0).collect();
    assert!(!stretched.is_empty(), "{report}");
    for row in stretched {
        // Longer than one that ends in time, and not much longer than the shards need to return.
        let took = Duration::from_millis(row.took_ms.unwrap());
        assert!(took >= 2 * epoch && took < 4 * epoch, "{report}");
    }
}
