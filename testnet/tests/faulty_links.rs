//! Links between nodes: a member behind a slow one stays in the committee. In short; it takes the
//! program itself, which moves into a network of its own.

#![cfg(target_os = "linux")]

use std::{
    io::{self, Write},
    process::Command,
};

use serde_json::Value;

/// The exit code where the system has no namespaces for this user.
const NOT_POSSIBLE: i32 = 3;

#[test]
fn a_slow_member_stays_in_the_committee() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_floe-testnet"));
    command.args(["scenario", "slow", "--json", "--seed", "7", "--nodes", "5", "--shards", "16"]);
    command.args(["--epochs", "2", "--epoch", "8s", "--delay", "100ms", "--blob-size", "64KiB"]);
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    // If it fails, an error comes behind the report.
    let report = serde_json::Deserializer::from_str(&text).into_iter::<Value>().next();
    let report = report.unwrap().unwrap();
    if output.status.code() == Some(NOT_POSSIBLE) {
        let why = &report["error"]["message"];
        io::stderr().write_all(format!("SKIPPED: {why}\n").as_bytes()).unwrap();
        return;
    }
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(report["broken"].as_array().map(Vec::len), Some(0), "{text}");
    assert!(report["load"]["reads"].as_u64().unwrap() > 0, "{text}");
    let slow = &report["slow"];
    let trip = |name: &str| slow[name].as_u64().unwrap();
    assert!(trip("round_trip_us") >= 200_000, "{slow}");
    // A machine under load takes its time with both.
    assert!(trip("others_round_trip_us") + 100_000 < trip("round_trip_us"), "{slow}");
    let epochs = slow["epochs"].as_array().unwrap();
    assert!(epochs.len() >= 3, "{slow}");
    for epoch in epochs {
        assert!(epoch["shards"].as_u64().unwrap() > 0, "{slow}");
    }
}
