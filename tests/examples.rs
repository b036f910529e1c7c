//! Every example runs as a test, so none can rot.

#![expect(dead_code, unreachable_pub, reason = "examples have a main of their own")]

#[path = "../examples/challenge_round.rs"]
mod challenge_round;
#[path = "../examples/join_swarm.rs"]
mod join_swarm;
#[path = "../examples/light_client.rs"]
mod light_client;
#[path = "../examples/recover_sliver.rs"]
mod recover_sliver;
#[path = "../examples/repair_node.rs"]
mod repair_node;
#[path = "../examples/run_node.rs"]
mod run_node;
#[path = "../examples/store_and_read.rs"]
mod store_and_read;
#[path = "../examples/transfer.rs"]
mod transfer;
#[path = "../examples/verify_certificate.rs"]
mod verify_certificate;

#[tokio::test(flavor = "multi_thread")]
async fn challenge_round() {
    challenge_round::run().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn join_swarm() {
    join_swarm::run().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn light_client() {
    light_client::run().await.unwrap();
}

#[test]
fn recover_sliver() {
    recover_sliver::run().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn repair_node() {
    repair_node::run().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn run_node() {
    run_node::run().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn store_and_read() {
    store_and_read::run().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn transfer() {
    transfer::run().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_certificate() {
    verify_certificate::run().await.unwrap();
}
