//! A volunteer as a user of the program `floe`: joins a running swarm with one command, serves,
//! leaves with another one, and is told when it may stop.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a helper of a test fails as the test does")]

#[path = "common/program.rs"]
mod program;

use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, ChildStdout, Command, Stdio},
    time::Duration,
};

use floe_protocol::ledger::LedgerParameters;
use floe_testnet::Cluster;
use serde_json::Value;
use tempfile::TempDir;
use tokio::{task::spawn_blocking, time::timeout};

use self::program::{Run, finish, program};

/// Far longer than anything here takes.
const DEADLINE: Duration = Duration::from_secs(300);
const ANY: &str = "/ip4/127.0.0.1/tcp/0";

/// A place to call the program from, with the swarm's wallet.
#[derive(Clone)]
struct Home {
    dir: PathBuf,
    network: PathBuf,
    wallet: PathBuf,
}

impl Home {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program());
        command
            .current_dir(&self.dir)
            .arg("--json")
            .args(arguments)
            // Not the configuration and the wallet of whoever runs the tests.
            .env("XDG_CONFIG_HOME", self.dir.join("config"))
            .env("FLOE_NETWORK", &self.network)
            .env("FLOE_TRUST_GENESIS", "1")
            .env_remove("FLOE_WALLET")
            .env_remove("FLOE_PROGRESS")
            .env_remove("FLOE_LOG")
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn floe(&self, arguments: &[&str]) -> Run {
        finish(self.command(arguments).spawn().unwrap())
    }

    fn lines(&self, arguments: &[&str]) -> Vec<Value> {
        let run = self.floe(arguments).expect(0);
        run.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn join(&self, more: &[&str]) -> Joined {
        let wallet = self.wallet.to_str().unwrap();
        let arguments = ["--wallet", wallet, "node", "join", "--dir", "node", "--listen", ANY];
        let mut command = self.command(&[&arguments, more].concat());
        let mut child = command.stderr(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Joined { child, lines }
    }
}

/// A running `floe node join`. Dropping it ends it.
struct Joined {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Joined {
    /// The next object that it prints.
    fn next(&mut self) -> Value {
        let mut line = String::new();
        assert!(self.lines.read_line(&mut line).unwrap() > 0, "it ended");
        serde_json::from_str(&line).unwrap()
    }

    /// Reads on until this status, and returns it with the names of those before.
    fn until(&mut self, wanted: &str) -> (Value, Vec<String>) {
        let mut before = Vec::new();
        loop {
            let status = self.next();
            match status["status"].as_str() {
                Some(name) if name == wanted => return (status, before),
                name => before.extend(name.map(str::to_owned)),
            }
        }
    }

    fn terminate(mut self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs blocking work of a test, but not for ever.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    timeout(DEADLINE, spawn_blocking(work)).await.expect("it comes to its end").unwrap()
}

async fn swarm(epoch_ms: u64) -> (Cluster, Home, TempDir) {
    let rules = LedgerParameters { heartbeat_ms: 500, ..LedgerParameters::for_epoch(epoch_ms) };
    let cluster = Cluster::builder().nodes(4).shards(7).ledger(rules).start().await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let wallet = dir.path().join("rich.key");
    floe_node::key_file::create_wallet(&wallet, cluster.wallet()).unwrap();
    let network = cluster.dir().join("network.json");
    let home = Home { dir: dir.path().to_owned(), network, wallet };
    (cluster, home, dir)
}

#[tokio::test]
async fn a_volunteer_joins_serves_leaves_and_is_told_when_to_stop() {
    let (cluster, home, _dir) = swarm(8_000).await;
    let there = home.clone();
    let (home, mut node) = blocking(move || {
        let mut node = there.join(&["--stake", "5000"]);
        assert_eq!(node.next()["shards"], 0, "it is up, and no member");
        let (serving, before) = node.until("serving");
        for status in ["registration", "staking", "selection", "selected"] {
            assert!(before.iter().any(|name| name == status), "{status}: {before:?}");
        }
        assert!(serving["shards"].as_u64().unwrap() > 0, "{serving}");
        (there, node)
    })
    .await;

    let there = home.clone();
    blocking(move || {
        let status = there.floe(&["node", "status", "--dir", "node"]).expect(0).json();
        assert_eq!(status["shards"], status["shards_ready"], "{status}");
        assert_eq!(status["registered"]["jailed_epoch"], Value::Null, "{status}");
        assert!(status["says"]["repair"]["missing_pairs"].is_u64(), "{status}");
        let id = status["node"].as_str().unwrap().to_owned();
        let committee = there.floe(&["committee"]).expect(0).json();
        let members = committee["members"].as_array().unwrap().clone();
        let member = members.iter().find(|member| member["node"] == *id).unwrap();
        assert_eq!(member["stake_frost"].as_str().unwrap().len(), 13, "{member}");
        let all: usize =
            members.iter().map(|member| member["shards"].as_array().unwrap().len()).sum();
        assert_eq!(all, 7);
        let epoch = there.floe(&["epoch"]).expect(0).json();
        assert_eq!((&epoch["n_shards"], &epoch["shards_needed"]), (&7.into(), &5.into()));
        let wallet = there.wallet.to_str().unwrap();
        let stakes = there.floe(&["--wallet", wallet, "stake", "list"]).expect(0).json();
        let stakes = stakes["stakes"].as_array().unwrap().clone();
        assert_eq!(stakes.len(), 5, "with the founders' four: {stakes:?}");
        there.floe(&["committee", "--epoch", "900"]).expect_error(3, "not_found", false);
    })
    .await;

    let there = home.clone();
    blocking(move || {
        let wallet = there.wallet.to_str().unwrap();
        assert!(there.dir.join("node/checkpoint.json").exists());
        let leave = ["--wallet", wallet, "node", "leave", "--dir", "node"];
        let lines = there.lines(&leave);
        assert!(lines[0]["transaction"].is_string(), "{lines:?}");
        let left = lines.last().unwrap();
        assert!(left["withdraw_epoch"].as_u64() > left["epoch"].as_u64() || left["epoch"].is_u64());
        let again = there.lines(&leave);
        assert_eq!(again.len(), 1, "nothing more to take out or to wait for: {again:?}");
        // A client does not look for who is no member: what the node says of itself is missing.
        let status = there.floe(&["node", "status", "--dir", "node"]);
        assert!(matches!(status.code, 0 | 5), "{}", status.describe());
        let status = status.json();
        assert_eq!((&status["shards"], &status["shards_kept"]), (&0.into(), &0.into()));
    })
    .await;
    // It goes on as a node until it is told to stop.
    assert!(node.child.try_wait().unwrap().is_none());
    blocking(move || node.terminate()).await;
    cluster.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_volunteer_without_wal_says_whom_to_send_it_and_goes_on_when_it_comes() {
    let (cluster, home, _dir) = swarm(3_600_000).await;
    blocking(move || {
        // A wallet of its own, made beside the node's key.
        let mut command =
            home.command(&["node", "join", "--dir", "node", "--listen", ANY, "--stake", "100"]);
        let mut child = command.stderr(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        let mut node = Joined { child, lines };
        let (poor, _) = node.until("wal");
        let account = poor["account"].as_str().unwrap().to_owned();
        assert_eq!(poor["needed_frost"], "100000020000");
        let rich = home.wallet.to_str().unwrap();
        home.floe(&["--wallet", rich, "wallet", "send", &account, "101"]).expect(0);
        node.until("selection");
        node.terminate();

        // The same command goes on where it was, and pays nothing more.
        let before = home.floe(&["wallet", "balance", &account]).expect(0).json();
        let mut node = home.join(&["--stake", "100"]);
        let (_, before_it) = node.until("selection");
        assert!(before_it.iter().all(|name| name == "following"), "{before_it:?}");
        let after = home.floe(&["wallet", "balance", &account]).expect(0).json();
        assert_eq!(before["balance_frost"], after["balance_frost"]);
        node.terminate();

        let other = home.dir.join("other.json");
        let mut network: Value =
            serde_json::from_slice(&std::fs::read(&home.network).unwrap()).unwrap();
        network["genesis"]["name"] = "another".into();
        std::fs::write(&other, network.to_string()).unwrap();
        let arguments = ["node", "join", "--dir", "node", "--genesis", "other.json"];
        home.floe(&arguments).expect_error(6, "other_network", false);
        network["bootstrap"] = Value::Array(Vec::new());
        std::fs::write(&other, network.to_string()).unwrap();
        let arguments = ["node", "join", "--dir", "new", "--genesis", "other.json"];
        home.floe(&arguments).expect_error(2, "no_peer", false);
        // What can be said of flags is said before anything is written.
        let wrong: [(&[&str], &str); 4] = [
            (&["--commission-bps", "10001"], "usage"),
            (&["--external", "/dns4/floe.example"], "bad_address"),
            (&["--stake", "0"], "bad_amount"),
            (&["--wallet", "absent.key"], "no_wallet"),
        ];
        for (flags, code) in wrong {
            let arguments = [&["node", "join", "--dir", "new"], flags].concat();
            home.floe(&arguments).expect_error(2, code, false);
        }
        assert!(!home.dir.join("new").exists());
    })
    .await;
    cluster.shutdown().await.unwrap();
}
