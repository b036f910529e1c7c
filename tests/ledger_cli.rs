//! The ledger as a user of the program `floe` meets it: wallets, faucet, names, stakes, explorer.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a helper of a test fails as the test does")]

#[path = "common/program.rs"]
mod program;

use std::{
    ffi::OsStr,
    fs,
    path::PathBuf,
    process::{Command, Stdio},
};

use floe_testnet::Cluster;
use serde_json::Value;
use tempfile::TempDir;

use self::program::{Run, finish, program};

const FROST: u128 = 1_000_000_000;
const BLOB: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
const OTHER_BLOB: &str = "BAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// A place to call the program from, with a rich wallet (the cluster's) and a new one.
struct Home {
    dir: TempDir,
    network: PathBuf,
    rich: PathBuf,
    cluster: Cluster,
}

impl Home {
    async fn new() -> Self {
        let cluster = Cluster::builder().nodes(4).shards(7).start().await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let rich = dir.path().join("rich.key");
        floe_node::key_file::create_wallet(&rich, cluster.wallet()).unwrap();
        Self { dir, network: cluster.dir().join("network.json"), rich, cluster }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(program());
        command
            .current_dir(self.dir.path())
            .env("FLOE_NETWORK", &self.network)
            // Not the configuration and the wallet of whoever runs the tests.
            .env("XDG_CONFIG_HOME", self.dir.path().join("config"))
            .env_remove("FLOE_WALLET")
            .env_remove("FLOE_PROGRESS")
            .env_remove("FLOE_LOG")
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs it with the default wallet.
    fn floe(&self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Run {
        finish(self.command().arg("--json").args(arguments).spawn().unwrap())
    }

    /// Runs it with the default wallet, for people.
    fn human(&self, arguments: &[&str]) -> String {
        finish(self.command().args(arguments).spawn().unwrap()).expect(0).text()
    }

    /// Runs it with the rich wallet.
    fn rich(&self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Run {
        let mut command = self.command();
        finish(
            command.env("FLOE_WALLET", &self.rich).arg("--json").args(arguments).spawn().unwrap(),
        )
    }

    fn account(&self) -> String {
        self.floe(["wallet", "address"]).expect(0).json()["account"].as_str().unwrap().to_owned()
    }

    fn rich_account(&self) -> String {
        self.rich(["wallet", "address"]).expect(0).json()["account"].as_str().unwrap().to_owned()
    }

    fn balance(&self, account: &str) -> u128 {
        frost(&self.floe(["wallet", "balance", account]).expect(0).json()["balance_frost"])
    }
}

fn frost(value: &Value) -> u128 {
    value.as_str().unwrap_or_else(|| panic!("{value} is no amount")).parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn wal_moves_between_wallets_and_every_view_of_it_agrees() {
    let home = Home::new().await;
    home.floe(["wallet", "address"]).expect_error(2, "no_wallet", false);
    let made = home.floe(["wallet", "new"]).expect(0).json();
    home.floe(["wallet", "new"]).expect_error(1, "key_exists", false);
    let (mine, rich) = (home.account(), home.rich_account());
    assert_eq!(made["account"], mine.as_str());
    assert!(home.dir.path().join("config/floe/wallet.key").exists());
    assert_eq!(home.balance(&mine), 0);
    let before = home.balance(&rich);

    home.rich(["wallet", "send", &mine, "0"]).expect_error(2, "bad_amount", false);
    let sent = home.rich(["wallet", "send", &mine, "1.5", "WAL"]).expect(0).json();
    let fee = frost(&sent["fee_frost"]);
    assert_eq!(home.balance(&mine), 3 * FROST / 2);
    assert_eq!(home.balance(&rich), before - 3 * FROST / 2 - fee);
    for account in [&mine, &rich] {
        let history = home.floe(["wallet", "history", account]).expect(0).json();
        let item = &history["transactions"][0];
        assert_eq!(item["transaction"], sent["transaction"]);
        assert_eq!(item["operations"][0]["to"], mine.as_str());
        assert_eq!(frost(&item["operations"][0]["amount_frost"]), 3 * FROST / 2);
    }

    let id = sent["transaction"].as_str().unwrap();
    let found = home.floe(["ledger", "tx", id]).expect(0).json();
    assert_eq!((&found["height"], &found["sender"]), (&sent["height"], &rich.as_str().into()));
    let height = sent["height"].to_string();
    let block = home.floe(["ledger", "block", &height]).expect(0).json();
    assert_eq!(
        (&block["block"], &block["transactions"][0]["transaction"]),
        (&found["block"], &id.into())
    );
    let status = home.floe(["ledger", "status"]).expect(0).json();
    assert!(status["height"].as_u64() >= sent["height"].as_u64());
    let part = |name: &str| frost(&status["supply"][name]);
    let parts = ["balances_frost", "stakes_frost", "buckets_frost", "burned_frost"].map(part);
    let supply = home.cluster.network().genesis.supply().unwrap().frost();
    assert_eq!((part("total_frost"), parts.iter().sum::<u128>()), (supply, supply));

    // People see the same.
    for (arguments, expected) in [
        (&["wallet", "balance"][..], "1.5 WAL"),
        (&["wallet", "history"], "received 1.5 WAL from"),
        (&["wallet", "history", &rich], "sent 1.5 WAL to"),
        (&["ledger", "account"], "1.5 WAL, proven by block"),
        (&["ledger", "tx", id], &rich),
        (&["ledger", "block", &height], "sent 1.5 WAL to"),
        (&["ledger", "status"], "supply"),
        (&["-q", "wallet", "balance"], "1.5 WAL"),
        (&["list-blobs"], "no blobs"),
    ] {
        let text = home.human(arguments);
        assert!(text.contains(expected), "{arguments:?}: {text}");
    }

    let unknown = "0".repeat(64);
    home.floe(["ledger", "tx", &unknown]).expect_error(3, "not_found", false);
    home.floe(["ledger", "block", "999999"]).expect_error(3, "not_found", false);
    // More than there is, and more than is left for the fee.
    home.floe(["wallet", "send", &rich, "2"]).expect_error(6, "funds", false);
    home.floe(["wallet", "send", &rich, "1.5"]).expect_error(6, "funds", false);
    assert_eq!(home.balance(&mine), 3 * FROST / 2, "a refused transaction costs nothing");
    home.cluster.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_faucet_gives_to_many_at_once() {
    let home = Home::new().await;
    home.floe(["wallet", "new"]).expect(0);
    let mine = home.account();
    let faucet = home.cluster.network().genesis.faucet.expect("test networks have one");
    // All of them sign with one key, and know nothing of each other.
    let mut runs = Vec::new();
    for _ in 0..3 {
        runs.push(
            home.command().args(["--json", "faucet", &mine, "--amount", "2"]).spawn().unwrap(),
        );
    }
    let taken: Vec<_> = runs.into_iter().map(|run| finish(run).expect(0).json()).collect();
    assert!(taken.iter().all(|taken| frost(&taken["amount_frost"]) == 2 * FROST));
    assert_eq!(home.balance(&mine), 6 * FROST);
    home.floe(["faucet"]).expect(0);
    assert_eq!(home.balance(&mine), 6 * FROST + faucet.amount.frost());
    home.cluster.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn names_have_versions_and_owners() {
    let home = Home::new().await;
    let rich = home.rich_account();
    home.rich(["name", "get", "photo"]).expect_error(3, "not_found", false);
    home.rich(["name", "set", "a/b", BLOB]).expect_error(2, "bad_name", false);
    home.rich(["name", "set", "photo"]).expect(2);
    for (version, blob) in [(1, BLOB), (2, OTHER_BLOB)] {
        let set = home.rich(["name", "set", "photo", blob]).expect(0).json();
        assert_eq!((&set["version"], &set["blob_id"]), (&version.into(), &blob.into()));
        let got = home.rich(["name", "get", "photo"]).expect(0).json();
        assert_eq!((&got["version"], &got["blob_id"]), (&version.into(), &blob.into()));
    }
    // Others name the account too, and their own names are apart.
    home.floe(["wallet", "new"]).expect(0);
    let theirs = format!("{rich}/photo");
    assert_eq!(home.floe(["name", "get", &theirs]).expect(0).json()["blob_id"], OTHER_BLOB);
    home.floe(["name", "get", "photo"]).expect_error(3, "not_found", false);
    home.floe(["name", "set", "photo", BLOB]).expect_error(6, "funds", false);
    let cleared = home.rich(["name", "set", "photo", "--clear"]).expect(0).json();
    assert_eq!((&cleared["version"], &cleared["blob_id"]), (&3.into(), &Value::Null));
    home.rich(["name", "get", "photo"]).expect_error(3, "not_found", false);
    let blobs = home.rich(["list-blobs"]).expect(0).json();
    assert_eq!(blobs["blobs"], Value::Array(Vec::new()));
    home.cluster.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn stake_goes_in_and_comes_out_by_shares() {
    let home = Home::new().await;
    let (rich, node) = (home.rich_account(), home.cluster.node_id(0).to_string());
    let stake_of = |home: &Home| {
        let account = home.floe(["ledger", "account", &rich]).expect(0).json();
        let stakes = account["stakes"].as_array().unwrap().clone();
        let stake = stakes.into_iter().find(|stake| stake["node"] == node.as_str());
        stake.unwrap_or_else(|| panic!("{account}"))
    };
    let before = frost(&stake_of(&home)["worth_frost"]);
    home.rich(["stake", &"0".repeat(64), "5"]).expect_error(3, "not_found", false);
    home.rich(["stake", &node, "50", "WAL"]).expect(0);
    // It enters the pool with the next epoch.
    let staked = stake_of(&home);
    assert_eq!(frost(&staked["worth_frost"]), before, "{staked}");
    assert_eq!(frost(&staked["incoming"][0]["worth_frost"]), 50 * FROST, "{staked}");
    assert_eq!(staked["incoming"][0]["from_epoch"], 1, "{staked}");
    home.rich(["unstake", &node, "99999999"]).expect_error(6, "stake", false);
    let out = home.rich(["unstake", &node, "20"]).expect(0).json();
    assert!((20 * FROST..=20 * FROST + 2).contains(&frost(&out["worth_frost"])), "{out}");
    let after = stake_of(&home);
    assert_eq!(after["unbonding"].as_array().unwrap().len(), 1);
    home.rich(["withdraw", &node]).expect_error(6, "unbonding", false);
    home.rich(["unstake", &node]).expect(2);
    home.rich(["unstake", &node, "--shares", "1000"]).expect_error(6, "stake", false);
    home.rich(["unstake", &node, "--shares", "1000000000000000"]).expect(0);
    home.rich(["unstake", &node, "--all"]).expect(0);
    assert_eq!(stake_of(&home)["shares"], "0");
    home.rich(["unstake", &node, "--all"]).expect_error(6, "stake", false);
    shows_what_nodes_earn(&home, &node);
    home.cluster.shutdown().await.unwrap();
}

/// In a network without blobs, which challenges nobody and pays everybody.
fn shows_what_nodes_earn(home: &Home, node: &str) {
    let challenges = home.floe(["challenges"]).expect(0).json();
    let running = challenges["running_epoch"].as_u64().unwrap();
    assert_eq!(challenges["epoch"], running);
    assert_eq!((&challenges["rounds"], &challenges["rounds_open"]), (&0.into(), &0.into()));
    assert_eq!(challenges["last_rounds"], Value::Array(Vec::new()));
    assert!(challenges["rules"]["steps"].as_u64().unwrap() > 0, "{challenges}");
    let members = challenges["members"].as_array().unwrap();
    assert_eq!(members.len(), 4);
    for member in members {
        assert_eq!((&member["passed"], &member["missed"]), (&0.into(), &0.into()));
        assert_eq!((&member["pay_bps"], &member["costs_stake"]), (&10_000.into(), &false.into()));
    }
    let far = (running + 1_000).to_string();
    home.floe(["challenges", "--epoch", &far]).expect_error(3, "not_found", false);
    home.floe(["challenges", "--rounds", "some"]).expect_error(2, "usage", false);
    let text = home.human(&["challenges", "--rounds", "0"]);
    assert!(text.contains("challenges of epoch") && text.contains("100 %"), "{text}");

    let rewards = home.floe(["rewards"]).expect(0).json();
    let nodes = rewards["nodes"].as_array().unwrap();
    assert_eq!(nodes.len(), 4);
    // Of what has been paid so far each shard is worth the same. Whose pool everybody has left, as
    // they have here, has nobody to earn for.
    let bucket = frost(&rewards["bucket_frost"]);
    assert!(bucket > 0, "{rewards}");
    for shown in nodes {
        let this = &shown["this_epoch"];
        let shards = u128::from(this["shards"].as_u64().unwrap());
        let earned = frost(&this["reward_frost"]) + frost(&this["commission_frost"]);
        let is_left = shown["node"] == node;
        assert_eq!(is_left, frost(&shown["stake_frost"]) == 0, "{rewards}");
        assert_eq!(earned, if is_left { 0 } else { bucket * shards / 7 }, "{rewards}");
    }
    let one = home.floe(["rewards", node]).expect(0).json();
    assert_eq!(one["nodes"][0]["node"], node);
    assert_eq!(one["nodes"][0]["bad_epochs"], 0, "{one}");
    assert!(one["nodes"][0]["jailed_epoch"].is_null(), "{one}");
    assert!(home.human(&["rewards", node]).contains("this epoch"));
    home.floe(["rewards", &"0".repeat(64)]).expect_error(3, "not_found", false);

    let status = home.floe(["node", "status", node]).expect(0).json();
    assert_eq!(status["challenges"]["pay_bps"], 10_000, "{status}");
    assert_eq!(status["says"]["challenges"]["missed"], 0, "{status}");
    assert!(home.human(&["node", "status", node]).contains("challenges  passed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn trust_starts_from_a_checkpoint_of_this_network_only() {
    let home = Home::new().await;
    let rich = home.rich_account();
    // A first transaction, so that there is a block.
    home.rich(["wallet", "send", &rich, "1"]).expect(0);
    let checkpoint = home.floe(["info", "--checkpoint"]).expect(0).json();
    let path = home.dir.path().join("root.json");
    let write = |checkpoint: &Value| fs::write(&path, checkpoint.to_string()).unwrap();
    write(&checkpoint);
    let trusted = ["--trust-checkpoint", "root.json", "wallet", "balance", &rich];
    home.floe(trusted).expect(0);
    let mut forged = checkpoint.clone();
    forged["root"]["height"] = 7_000_000.into();
    write(&forged);
    home.floe(trusted).expect_error(4, "bad_checkpoint", false);
    fs::write(&path, "{}").unwrap();
    home.floe(trusted).expect_error(1, "bad_checkpoint", false);
    home.floe(["--trust-genesis", "ledger", "status"]).expect(0);
    home.cluster.shutdown().await.unwrap();
}
