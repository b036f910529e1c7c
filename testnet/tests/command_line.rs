//! The program `floe-testnet` as people run it.

#![expect(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

use std::{
    path::Path,
    process::{Output, Stdio},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open},
};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    task::{JoinHandle, spawn_blocking},
    time::timeout,
};

const DEADLINE: Duration = Duration::from_secs(120);

fn program(runtime_dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_floe-testnet"));
    command.env("XDG_RUNTIME_DIR", runtime_dir).env("TMPDIR", runtime_dir);
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

async fn run(runtime_dir: &Path, args: &[&str]) -> Output {
    let output = program(runtime_dir).args(args).output();
    timeout(DEADLINE, output).await.unwrap().unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Sends the signal that Ctrl-C sends.
fn interrupt(child: &Child) {
    let pid = i32::try_from(child.id().unwrap()).unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::INT).unwrap();
}

fn is_alive(pid: u64) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// Ends when the process does.
fn wait_for_end(pid: i32) -> JoinHandle<()> {
    let pid = Pid::from_raw(pid).unwrap();
    let process = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    spawn_blocking(move || {
        // The descriptor of a process becomes readable when it has ended.
        let deadline = Timespec::try_from(DEADLINE).unwrap();
        let mut fds = [PollFd::new(&process, PollFlags::IN)];
        assert_eq!(poll(&mut fds, Some(&deadline)).unwrap(), 1);
    })
}

async fn up_takes_commands(mode: &[&str]) {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let nobody = run(home, &["status"]).await;
    assert_eq!(nobody.status.code(), Some(1));
    let message = String::from_utf8(nobody.stderr).unwrap();
    assert!(message.contains("no swarm is running: start one with"), "{message}");

    let mut up = program(home);
    up.args(["up", "--nodes", "4", "--shards", "7"]).args(mode).stdout(Stdio::piped());
    let mut up = up.spawn().unwrap();
    let mut lines = BufReader::new(up.stdout.take().unwrap()).lines();
    let line = timeout(DEADLINE, lines.next_line()).await.unwrap().unwrap().unwrap();
    let words: Vec<_> = line.split(' ').collect();
    let network = words[1].strip_prefix("FLOE_NETWORK=").unwrap();
    let wallet = words[2].strip_prefix("FLOE_WALLET=").unwrap();
    for file in [network, wallet] {
        assert!(Path::new(file).exists(), "{line}");
    }

    let status = json(&run(home, &["status", "--json"]).await);
    assert_eq!(status["running_shards"], 7);
    let pids: Vec<_> = (0..4).filter_map(|node| status["nodes"][node]["pid"].as_u64()).collect();
    assert_eq!(pids.len(), if mode.is_empty() { 0 } else { 4 });

    for (command, state) in [("stop", "stopped"), ("start", "running"), ("kill", "killed")] {
        let after = json(&run(home, &[command, "3", "--json"]).await);
        assert_eq!(after["nodes"][3]["state"], state, "{command}");
    }
    let again = run(home, &["kill", "3", "--json"]).await;
    assert_eq!(again.status.code(), Some(1));
    let error = &json(&again)["error"];
    assert_eq!(error["message"], "node 3 is not running: killed");
    assert_eq!((&error["code"], &error["retryable"]), (&"failed".into(), &false.into()));
    assert!(error.as_object().unwrap().contains_key("hint"));
    let unknown = run(home, &["stop", "9"]).await;
    let message = String::from_utf8(unknown.stderr).unwrap();
    assert_eq!(message, "error: no node 9: this swarm has nodes 0 to 3\n");
    let table = String::from_utf8(run(home, &["status"]).await.stdout).unwrap();
    assert!(table.contains("3 of 4 nodes run"), "{table}");

    interrupt(&up);
    let ended = timeout(DEADLINE, up.wait()).await.unwrap().unwrap();
    assert_eq!(ended.code(), Some(0));
    assert!(!Path::new(network).exists(), "the temporary directory is gone");
    assert!(pids.into_iter().all(|pid| !is_alive(pid)));
    let nobody = run(home, &["status"]).await;
    assert_eq!(nobody.status.code(), Some(1));
}

#[tokio::test]
async fn a_swarm_in_one_process_takes_commands() {
    up_takes_commands(&[]).await;
}

#[tokio::test]
async fn a_swarm_of_processes_takes_commands() {
    up_takes_commands(&["--processes"]).await;
}

#[tokio::test]
async fn processes_end_when_their_swarm_is_killed() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let mut up = program(home);
    up.args(["up", "--nodes", "4", "--shards", "7", "--processes"]).stdout(Stdio::piped());
    let mut up = up.spawn().unwrap();
    let mut lines = BufReader::new(up.stdout.take().unwrap()).lines();
    timeout(DEADLINE, lines.next_line()).await.unwrap().unwrap().unwrap();
    let status = json(&run(home, &["status", "--json"]).await);
    let node = status["nodes"][0]["pid"].as_i64().unwrap();
    let ended = wait_for_end(i32::try_from(node).unwrap());
    up.kill().await.unwrap();
    timeout(DEADLINE, ended).await.unwrap().unwrap();

    let dead = run(home, &["status"]).await;
    let message = String::from_utf8(dead.stderr).unwrap();
    assert!(message.contains("no swarm is running in"), "{message}");
}

#[tokio::test]
async fn the_demo_shows_its_report_and_cleans_up() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let file = home.join("file");
    std::fs::write(&file, floe_testnet::content(3, 200_000)).unwrap();
    let demo = run(home, &["demo", "--json", file.to_str().unwrap()]).await;
    assert!(demo.status.success(), "{}", String::from_utf8_lossy(&demo.stderr));
    let report = json(&demo);
    assert_eq!(report["identical"], true);
    assert_eq!(report["blob_bytes"], 200_000);
    assert_eq!(report["blob"].as_str().unwrap().len(), 43);
    assert_eq!(String::from_utf8_lossy(&demo.stderr), "", "nothing among the steps");
    assert_eq!(report["stopped_nodes"].as_array().unwrap().len(), 4);
    let payment = &report["payment"];
    assert_eq!(payment["epochs"], 2);
    for amount in ["price", "fees", "refund"] {
        assert!(payment[amount].is_string() && payment[amount] != "0", "{payment}");
    }
    let [genesis, stored, deleted] =
        ["genesis", "stored", "deleted"].map(|when| payment[when].clone());
    assert_ne!(genesis["wallet"], stored["wallet"]);
    assert_ne!(stored["wallet"], deleted["wallet"]);
    assert_eq!((&stored["all"], &deleted["all"]), (&genesis["all"], &genesis["all"]));
    let left: Vec<_> = std::fs::read_dir(home).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["file"]);

    let absent = run(home, &["demo", "/nowhere/file"]).await;
    assert_eq!(absent.status.code(), Some(1));
    let message = String::from_utf8(absent.stderr).unwrap();
    assert!(message.contains("cannot read /nowhere/file"), "{message}");
}

#[tokio::test]
async fn a_file_beyond_the_limit_is_refused_before_a_node_starts() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("large");
    std::fs::File::create(&file).unwrap().set_len((64 << 20) + 1).unwrap();
    let demo = run(home.path(), &["demo", "--json", file.to_str().unwrap()]).await;
    assert_eq!(demo.status.code(), Some(1));
    let message = json(&demo)["error"]["message"].to_string();
    assert!(message.contains("67108864 bytes"), "{message}");
}

#[tokio::test]
async fn wrong_usage_is_an_object_with_json() {
    let home = tempfile::tempdir().unwrap();
    let usage = run(home.path(), &["stop", "--json"]).await;
    assert_eq!(usage.status.code(), Some(2));
    let error = &json(&usage)["error"];
    assert_eq!((&error["code"], &error["retryable"]), (&"usage".into(), &false.into()));
    assert!(error["message"].as_str().unwrap().contains("<NODE>"), "{error}");
    assert!(error["hint"].as_str().unwrap().contains("--help"), "{error}");
}

#[tokio::test]
async fn the_benchmark_measures_everything() {
    let home = tempfile::tempdir().unwrap();
    let args = "bench store-read --size 300KiB --nodes 4 --shards 7 --runs 1 --processes --json";
    let args: Vec<_> = args.split(' ').collect();
    let bench = run(home.path(), &args).await;
    assert!(bench.status.success(), "{}", String::from_utf8_lossy(&bench.stderr));
    let report = json(&bench);
    for operation in ["store", "read"] {
        assert!(report[operation]["whole"]["mib_per_second"].as_f64().unwrap() > 0.0);
        assert!(report[operation]["of_slowest_part"].as_f64().unwrap() > 0.0);
    }
    assert_eq!(report["store"]["parts"].as_array().unwrap().len(), 4);
    let whole = report["store"]["whole"]["seconds"].as_f64().unwrap();
    assert!(report["store"]["transfer"]["seconds"].as_f64().unwrap() < whole);
    for transaction in ["register_ms", "certify_ms"] {
        assert!(report["ledger"][transaction].as_f64().unwrap() > 0.0, "{report}");
    }
    assert_eq!(report["node_peak_rss_bytes"].as_array().unwrap().len(), 4);
    let usage = run(home.path(), &["bench", "store-read", "--size", "many"]).await;
    assert_eq!(usage.status.code(), Some(2));
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn the_benchmark_of_the_ledger_measures_everything() {
    let home = tempfile::tempdir().unwrap();
    let bench = run(home.path(), &["bench", "ledger", "--quick", "--json"]).await;
    assert!(bench.status.success(), "{}", String::from_utf8_lossy(&bench.stderr));
    let report = json(&bench);
    let swarm = &report["swarms"][0];
    assert_eq!(swarm["nodes"], 4);
    assert!(swarm["empty"]["blocks_per_second"].as_f64().unwrap() > 0.0);
    assert!(swarm["empty"]["heard_bytes_per_block"].as_f64().unwrap() > 0.0);
    assert!(swarm["facts_p50_ms"].as_f64().unwrap() > 0.0);
    let loads = swarm["loads"].as_array().unwrap();
    assert_eq!(loads.len(), 2);
    for load in loads {
        assert!(load["committed"].as_u64().unwrap() > 0, "{load}");
        assert!(load["latency_p50_ms"].as_f64().unwrap() > 0.0, "{load}");
    }
    let large = &report["large"];
    assert!(large["execute_known_ms"].as_f64().unwrap() > 0.0);
    // 1,000 registrations, at most 250 swept by a block, and the block that ends the epoch.
    assert!(large["boundary_blocks"].as_u64().unwrap() >= 4);
    assert!(large["handover_and_proof_p50_ms"].as_f64().unwrap() > 0.0);
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
}
