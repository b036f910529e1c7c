//! The program `floe` as a user meets it: files in and out, exit codes, errors, interruptions.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a helper of a test fails as the test does")]

#[path = "common/program.rs"]
mod program;

use std::{
    ffi::OsStr,
    fs,
    io::{Read, Write},
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use floe_testnet::Cluster;
use serde_json::Value;
use tempfile::TempDir;

use self::program::{Run, finish, program};

const UNKNOWN_ID: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// A place to call the program from.
struct Home {
    dir: PathBuf,
    network: PathBuf,
    wallet: PathBuf,
}

impl Home {
    fn of(cluster: &Cluster, dir: &TempDir) -> Self {
        let wallet = dir.path().join("wallet.key");
        floe_node::key_file::create_wallet(&wallet, cluster.wallet()).unwrap();
        Self { dir: dir.path().to_owned(), network: cluster.dir().join("network.json"), wallet }
    }

    /// A network of four nodes that do not run. Whoever knocks at `bootstrap` is not answered.
    fn offline(dir: &TempDir, bootstrap: &str) -> Self {
        let dir = dir.path().to_owned();
        let home = Self { network: dir.join("network.json"), wallet: dir.join("wallet.key"), dir };
        for i in 0..4 {
            home.floe(["node", "init", "--dir", &format!("n{i}")]).expect(0);
        }
        let peer = home.floe(["--json", "node", "init", "--dir", "n4"]).expect(0).json();
        let bootstrap = format!("{bootstrap}{}", peer["peer"].as_str().unwrap());
        let members = (0..4).map(|i| format!("n{i}/member.json"));
        let mut arguments = vec!["genesis".into(), "--name".into(), "test".into()];
        arguments.extend(["--max-blob-bytes", "1MiB", "--member"].map(String::from));
        arguments.extend(members.chain(["--bootstrap".into(), bootstrap]));
        let made = home.floe(&arguments).expect(0);
        assert!(made.text().contains("chain id"), "{}", made.describe());
        home.floe(["wallet", "new"]).expect(0);
        home
    }

    fn command(&self) -> Command {
        let mut command = Command::new(program());
        command
            .current_dir(&self.dir)
            .env("FLOE_NETWORK", &self.network)
            .env("FLOE_WALLET", &self.wallet)
            // Not the configuration of whoever runs the tests.
            .env("XDG_CONFIG_HOME", self.dir.join("config"))
            .env_remove("FLOE_NETWORKS_DIR")
            .env_remove("FLOE_PROGRESS")
            .env_remove("FLOE_EPOCHS")
            .env_remove("FLOE_LOG")
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn floe(&self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Run {
        finish(self.command().args(arguments).spawn().unwrap())
    }

    fn floe_reading(&self, input: &[u8], arguments: &[&str]) -> Run {
        let mut child = self.command().args(arguments).stdin(Stdio::piped()).spawn().unwrap();
        // A program that has seen enough closes the pipe.
        let _ = child.stdin.take().unwrap().write_all(input);
        finish(child)
    }

    fn json(&self, arguments: &[&str]) -> Value {
        self.floe(["--json"].iter().chain(arguments)).expect(0).json()
    }

    /// Runs it and reads its results, one object a line.
    fn json_lines(&self, arguments: &[&str]) -> Vec<Value> {
        let run = self.floe(["--json"].iter().chain(arguments)).expect(0);
        run.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn balance(&self) -> u128 {
        frost(&self.json(&["wallet", "balance"])["balance_frost"])
    }

    fn nonce(&self) -> u64 {
        self.json(&["ledger", "account"])["nonce"].as_u64().unwrap()
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        fs::write(self.dir.join(name), bytes).unwrap();
    }

    fn get(&self, name: &str) -> Vec<u8> {
        fs::read(self.dir.join(name)).unwrap()
    }

    fn partial_files(&self) -> usize {
        let entries = fs::read_dir(&self.dir).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.contains(".part")).count()
    }
}

fn frost(value: &Value) -> u128 {
    value.as_str().unwrap_or_else(|| panic!("{value} is no amount")).parse().unwrap()
}

/// The sum of amounts in several results.
fn sum(results: &[Value], fields: &[&str]) -> u128 {
    let of = |result: &Value| fields.iter().map(|field| frost(&result[field])).sum::<u128>();
    results.iter().map(of).sum()
}

fn signal(child: &Child, name: &str) {
    let kill = Command::new("kill").args(["-s", name, &child.id().to_string()]).status();
    assert!(kill.unwrap().success());
}

fn bytes(seed: u64, len: usize) -> Vec<u8> {
    floe_protocol::test_support::blob(seed, len).to_vec()
}

async fn cluster(shards: u16) -> Cluster {
    Cluster::builder().nodes(7).shards(shards).start().await.unwrap()
}

/// Everything a user does with one file: in by name and by pipe, out whole and in part.
fn check_round_trips(home: &Home, file: &[u8]) {
    home.put("file", file);
    let stored = home.floe(["store", "file"]).expect(0);
    assert!(stored.text().contains("of 64 shards"), "{}", stored.describe());
    let price = stored.stderr.find(" for 10 epochs (until about ");
    let public = stored.stderr.find("public: ");
    assert!(price.is_some() && price < public, "{}", stored.describe());
    let id = home.floe(["-q", "store", "file"]).expect(0).text();
    assert_eq!(home.floe_reading(file, &["-q", "store", "-"]).expect(0).text(), id);
    assert_eq!(home.floe(["-q", "blob-id", "file"]).expect(0).text(), id);
    check_reads(home, &id, file);
    let status = home.floe(["--json", "blob-status", &id]).expect(0).json();
    assert_eq!(
        (&status["state"], &status["size_bytes"]),
        (&"certified".into(), &file.len().into())
    );
}

fn check_reads(home: &Home, id: &str, file: &[u8]) {
    assert!(home.floe(["read", id]).expect(0).stdout == file);
    assert!(home.floe(["read", id, "--strict"]).expect(0).stdout == file);
    let len = file.len();
    let ranges = [
        ("0-0".to_owned(), 0..1),
        ("100-1099".to_owned(), 100..1100),
        (format!("{}-", len - 7), len - 7..len),
        (format!("{len}-"), len..len),
        ("-500".to_owned(), len - 500..len),
        (format!("10-{}", len * 2), 10..len),
    ];
    for (range, expected) in ranges {
        let run = home.floe(["read", id, "--range", &range]).expect(0);
        assert!(run.stdout == file[expected], "range {range}");
    }
    let beyond = format!("{}-", len + 1);
    home.floe(["read", id, "--range", &beyond]).expect(1);

    home.floe(["read", id, "-o", "out"]).expect(0);
    assert!(home.get("out") == file);
    home.put("out", b"mine");
    home.floe(["--json", "read", id, "-o", "out"]).expect_error(1, "file_exists", false);
    assert_eq!(home.get("out"), b"mine");
    home.floe(["read", id, "-o", "out", "--force", "--strict"]).expect(0);
    assert!(home.get("out") == file);
    fs::remove_file(home.dir.join("out")).unwrap();
    assert_eq!(home.partial_files(), 0);
}

/// `floe info` shows so many members, each with an address.
fn check_peers(home: &Home, up: usize) {
    let run = home.floe(["--json", "info"]).expect(0);
    let info = run.json();
    let peers = info["peers"].as_array().unwrap();
    assert_eq!(peers.len(), up, "{}", run.describe());
    for peer in peers {
        assert_eq!(peer["answers"], true, "{}", run.describe());
        assert!(peer["address"].as_str().unwrap().starts_with("/ip4/127.0.0.1/tcp/"));
    }
    let text = home.floe(["info"]).expect(0).text();
    assert!(text.contains(&format!("{up} of 7 nodes answer")), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_go_in_and_come_out_also_when_four_of_seven_nodes_have_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = cluster(64).await;
    let home = Home::of(&cluster, &dir);
    let file = bytes(1, 300_000);
    check_round_trips(&home, &file);
    let health = home.floe(["--json", "health"]).expect(0).json();
    assert_eq!((&health["nodes_up"], &health["writes_possible"]), (&7.into(), &true.into()));
    let ledger = &health["ledger"];
    assert_eq!((&ledger["verdict"], &ledger["members_answering"]), (&"running".into(), &7.into()));
    assert_eq!(ledger["waits"], Value::Array(Vec::new()));
    home.floe(["--json", "read", UNKNOWN_ID]).expect_error(3, "not_found", false);
    home.floe(["--json", "blob-status", UNKNOWN_ID]).expect_error(3, "not_found", false);

    check_peers(&home, 7);
    for node in 0..4 {
        cluster.stop(node).await.unwrap();
    }
    check_peers(&home, 3);
    let id = home.floe(["-q", "blob-id", "file"]).expect(0).text();
    check_reads(&home, &id, &file);
    let health = home.floe(["--json", "health"]).expect(5).json();
    assert_eq!((&health["nodes_up"], &health["reads_possible"]), (&3.into(), &true.into()));
    assert_eq!(health["writes_possible"], false);
    assert_eq!(health["ledger"]["members_answering"], 3);
    let text = home.floe(["health"]).expect(5).text();
    assert!(text.contains("do not answer, and blocks need 43 shards"), "{text}");
    // Without a quorum nothing is agreed, and nothing is paid for good.
    home.put("new", &bytes(2, 1_000));
    home.floe(["--json", "store", "new"]).expect_error(5, "unsettled", true);
    // That there is none can be proven by those who are left.
    home.floe(["--json", "read", UNKNOWN_ID]).expect_error(3, "not_found", false);
    cluster.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_of_any_size_has_one_id_and_comes_back_equal() {
    for (shards, max_bytes, cells) in [(64, 64 << 20, 22 * 43), (7, 12 << 20, 3 * 5)] {
        let dir = tempfile::tempdir().unwrap();
        let cluster = cluster(shards).await;
        let home = Home::of(&cluster, &dir);
        let sizes = [0, 1, 946, 947, cells, cells + 1, 2 * cells, 22 * 1024, 65_537, max_bytes];
        let names: Vec<_> = sizes.iter().enumerate().map(|(i, len)| format!("{i}-{len}")).collect();
        for (name, len) in names.iter().zip(sizes) {
            home.put(name, &bytes(len as u64, len));
        }
        // One line per file, in order.
        let stored = home.floe(["-q", "store"].into_iter().chain(names.iter().map(String::as_str)));
        let stored = stored.expect(0).text();
        let ids: Vec<_> = stored.lines().collect();
        assert_eq!(ids.len(), sizes.len());
        for (name, id) in names.iter().zip(ids) {
            assert_eq!(home.floe(["-q", "blob-id", name]).expect(0).text(), id, "{name}");
            let n_shards = shards.to_string();
            let offline = home.floe(["-q", "blob-id", "--n-shards", &n_shards, name]);
            assert_eq!(offline.expect(0).text(), id, "{name}");
            assert!(home.floe(["read", id]).expect(0).stdout == home.get(name), "{name}");
        }
        home.put("large", &bytes(1, max_bytes + 1));
        let run = home.floe(["--json", "store", "large"]).expect_error(1, "too_large", false);
        let message = run.json()["error"]["message"].to_string();
        assert!(message.contains(&max_bytes.to_string()), "{message}");
        cluster.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_file_does_not_stop_the_others_and_a_closed_pipe_is_quiet() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = cluster(16).await;
    let home = Home::of(&cluster, &dir);
    home.put("first", &bytes(1, 10));
    home.put("last", &bytes(2, 3_000_000));
    let run = home.floe(["--json", "store", "first", "missing", ".", "last"]).expect(1);
    let lines: Vec<Value> =
        run.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 4, "{}", run.describe());
    assert_eq!(lines[0]["file"], "first");
    assert_eq!(lines[0]["payment_transaction"], lines[3]["payment_transaction"]);
    assert_eq!(
        (&lines[1]["file"], &lines[1]["error"]["code"]),
        (&"missing".into(), &"file_not_found".into())
    );
    assert_eq!(lines[2]["error"]["code"], "is_a_directory");
    assert_eq!(
        (&lines[3]["confirmed_shards"], &lines[3]["survives_lost_shards"]),
        (&16.into(), &10.into())
    );

    let id = lines[3]["blob_id"].as_str().unwrap();
    let mut child = home.command().args(["read", id]).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0]).unwrap();
    drop(stdout);
    let run = finish(child).expect(0);
    assert_eq!(run.stderr, "");

    // The bytes alone are on stdout; the object is on stderr.
    let run = home.floe(["--json", "read", id]).expect(0);
    assert!(run.stdout == home.get("last"));
    assert_eq!(serde_json::from_str::<Value>(&run.stderr).unwrap()["bytes"], 3_000_000);
    cluster.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn stores_are_priced_first_and_paid_once() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = cluster(16).await;
    let home = Home::of(&cluster, &dir);
    for (name, len) in [("a", 10), ("b", 300_000), ("c", 2_000_000)] {
        home.put(name, &bytes(len as u64, len));
    }
    let before = home.balance();
    let files = ["store", "a", "b", "c", "a", "--epochs", "3"];

    // A dry run says what it will be and does nothing, with a wallet or without.
    let planned = home.json_lines(&[&files[..], &["--dry-run"]].concat());
    assert_eq!(planned.len(), 5, "{planned:?}");
    let plans: Vec<_> = planned[..4].iter().map(|file| file["plan"].as_str().unwrap()).collect();
    assert_eq!(plans, ["store", "store", "store", "nothing"]);
    let total = &planned[4];
    assert_eq!((&total["files"], &total["epochs"]), (&4.into(), &3.into()));
    assert_eq!(frost(&total["balance_frost"]), before);
    let price = sum(&planned[4..], &["price_frost", "fee_frost"]);
    assert_eq!(sum(&planned[..4], &["price_frost", "fee_frost"]), price);
    let bare = [&["--wallet", "absent.key"], &files[..], &["--dry-run"]].concat();
    assert_eq!(home.json_lines(&bare)[4]["account"], Value::Null);
    assert_eq!((home.balance(), home.nonce()), (before, 0));

    // So does a limit that is too low.
    let max = |frost: u128| format!("{frost}FROST");
    let run = home.floe([&["--json"], &files[..], &["--max-payment", &max(price - 1)]].concat());
    let refused: Vec<Value> =
        run.expect(6).text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(refused.len(), 4);
    assert!(refused.iter().all(|refused| refused["error"]["code"] == "max_payment"), "{refused:?}");
    assert_eq!((home.balance(), home.nonce()), (before, 0));

    // Four files, two transactions, at the price that was said.
    let stored = home.json_lines(&[&files[..], &["--max-payment", &max(price)]].concat());
    let outcomes: Vec<_> = stored.iter().map(|file| file["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["stored", "stored", "stored", "stored_before"]);
    assert_eq!((home.balance(), home.nonce()), (before - price, 2));
    assert_eq!(sum(&stored, &["paid_frost", "fee_frost"]), price);
    for file in &stored {
        let end = file["end_epoch"].as_u64().unwrap();
        assert!((3..=4).contains(&end) && file["expires_ms"].as_u64().is_some(), "{file}");
        assert!(file["registration"].is_string() && file["certification_transaction"].is_string());
    }

    // Once more is free, and for longer costs the difference.
    let again = home.json_lines(&files);
    assert!(again.iter().all(|file| file["outcome"] == "stored_before"), "{again:?}");
    assert_eq!((home.balance(), home.nonce()), (before - price, 2));
    let run = home.floe(["store", "a", "--epochs", "3"]).expect(0);
    assert!(run.stderr.contains("nothing to pay"), "{}", run.describe());
    let longer = home.json(&["store", "a", "--epochs", "5"]);
    assert_eq!((&longer["outcome"], &longer["end_epoch"]), (&"extended".into(), &5.into()));
    let paid = sum(&[longer], &["paid_frost", "fee_frost"]);
    assert_eq!((home.balance(), home.nonce()), (before - price - paid, 3));

    // Who has nothing is told so before anything is sent.
    home.floe(["--wallet", "poor.key", "wallet", "new"]).expect(0);
    home.put("new", &bytes(77, 500));
    let poor = home.floe(["--json", "--wallet", "poor.key", "store", "new"]);
    let hint = poor.expect_error(6, "funds", false).json()["error"]["hint"].to_string();
    assert!(hint.contains("floe faucet"), "{hint}");
    cluster.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_are_extended_and_deleted_by_those_who_stored_them() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = cluster(16).await;
    let home = Home::of(&cluster, &dir);
    home.put("file", &bytes(5, 100_000));
    home.put("kept", &bytes(6, 1_000));
    let stored = home.json(&["store", "file", "--epochs", "4"]);
    let id = stored["blob_id"].as_str().unwrap();
    let end = stored["end_epoch"].as_u64().unwrap();
    let status = home.json(&["blob-status", id]);
    assert_eq!((&status["end_epoch"], &status["registrations"]), (&end.into(), &1.into()));
    assert_eq!((&status["fresh"], &status["permanent_end_epoch"]), (&true.into(), &Value::Null));

    let before = home.balance();
    let extended = home.json(&["extend", id, "--epochs", "2"]);
    assert_eq!(extended["end_epoch"], end + 2);
    assert_eq!(extended["registration"], stored["registration"]);
    let paid = frost(&extended["paid_frost"]);
    assert!(paid > 0);
    let before_delete = before - paid - frost(&extended["fee_frost"]);
    assert_eq!(home.balance(), before_delete);
    assert_eq!(home.json(&["blob-status", id])["end_epoch"], end + 2);
    let run = home.floe(["extend", id, "--epochs", "1"]).expect(0);
    assert!(run.stderr.contains("more epochs, fee"), "{}", run.describe());
    assert!(run.text().contains(&format!("until epoch {}", end + 3)), "{}", run.describe());
    let listed = home.json(&["list-blobs"]);
    assert_eq!(listed["blobs"][0]["end_epoch"], end + 3);
    let text = home.floe(["blob-status", id]).expect(0).text();
    assert!(text.contains("certified: the swarm answers for it"), "{text}");
    assert!(text.contains(&format!("until epoch {} (about ", end + 3)), "{text}");

    // Nobody else can.
    let other = ["--json", "--wallet", "other.key"];
    home.floe(other.iter().chain(&["wallet", "new"])).expect(0);
    let delete = home.floe(other.iter().chain(&["delete", id]));
    delete.expect_error(3, "not_owned", false);

    let before = home.balance();
    let deleted = home.json(&["delete", id]);
    let (refund, fee) = (frost(&deleted["refund_frost"]), frost(&deleted["fee_frost"]));
    assert!(refund > 0, "{deleted}");
    assert_eq!(deleted["still_stored"], Value::Null);
    assert_eq!(home.balance(), before + refund - fee);
    home.floe(["--json", "read", id]).expect(3);
    home.floe(["--json", "delete", id]).expect_error(3, "not_owned", false);

    let kept = home.json(&["store", "kept", "--permanent"]);
    let id = kept["blob_id"].as_str().unwrap();
    home.floe(["--json", "delete", id]).expect_error(6, "permanent", false);
    home.floe(["read", id]).expect(0);
    let info = home.json(&["info"]);
    assert!(frost(&info["ledger"]["storage_price_frost"]) > 0, "{info}");
    cluster.shutdown().await.unwrap();
}

#[test]
fn errors_before_any_node_is_asked_say_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::offline(&dir, "/ip4/127.0.0.1/tcp/1");
    home.put("file", b"content");
    home.floe(["--json", "read", "no-id"]).expect_error(2, "bad_blob_id", false);
    // Ids may begin with a hyphen, and options may follow or go before.
    home.floe(["--json", "read", "-o", "x", "-no-id"]).expect_error(2, "bad_blob_id", false);
    home.floe(["--json", "read", "-no-id", "-o", "x"]).expect_error(2, "bad_blob_id", false);
    home.floe(["--json", "read", UNKNOWN_ID, "--range", "5-2"]).expect_error(2, "usage", false);
    home.floe(["--json", "frobnicate"]).expect_error(2, "usage", false);
    home.floe(["store"]).expect(2);
    let run = home.floe(["--json", "key", "new"]).expect_error(2, "usage", false);
    let message = run.json()["error"]["message"].to_string();
    assert!(message.contains("--operator") && message.contains("--output"), "{message}");
    home.floe(["--json", "blob-id", "--n-shards", "3", "file"]).expect_error(2, "n_shards", false);

    let absent = ["--json", "--network", "absent.json", "read", UNKNOWN_ID];
    home.floe(absent).expect_error(2, "no_network_file", false);
    let run = home.command().env_remove("FLOE_NETWORK").args(["--json", "info"]).spawn().unwrap();
    let run = finish(run).expect_error(2, "no_network_file", false);
    assert!(run.json()["error"]["hint"].as_str().unwrap().contains("FLOE_NETWORK"));
    home.floe(["--json", "--network", "file", "info"]).expect_error(1, "bad_network_file", false);

    fs::File::create(home.dir.join("large")).unwrap().set_len(1 << 40).unwrap();
    home.floe(["--json", "store", "large"]).expect_error(1, "too_large", false);
    let piped = home.floe_reading(&bytes(1, (1 << 20) + 1), &["--json", "store", "-"]);
    piped.expect_error(1, "too_large", false);

    let absent = ["--json", "--wallet", "absent.key", "store", "file"];
    home.floe(absent).expect_error(2, "no_wallet", false);
    let too_long = ["--json", "store", "--epochs", "105", "file"];
    home.floe(too_long).expect_error(2, "too_far_ahead", false);
    home.floe(["--json", "store", "--epochs", "0", "file"]).expect_error(2, "usage", false);
    home.floe(["--json", "extend", UNKNOWN_ID]).expect_error(2, "usage", false);
    home.floe(["--json", "delete", "no-id"]).expect_error(2, "bad_blob_id", false);
    fs::set_permissions(&home.wallet, fs::Permissions::from_mode(0o644)).unwrap();
    let run = home.floe(["store", "file"]).expect(6);
    assert!(run.stderr.contains("error: ") && run.stderr.contains("hint: "), "{}", run.describe());
    home.floe(["--json", "store", "file"]).expect_error(6, "key_permissions", false);
}

#[test]
fn settings_come_from_flag_environment_and_file_and_say_so() {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::offline(&dir, "/ip4/127.0.0.1/tcp/1");
    let show = |network: &str, more: &[&str]| {
        let mut command = home.command();
        command.env("FLOE_NETWORK", network).env_remove("FLOE_WALLET");
        finish(command.args(["--json", "config", "show"]).args(more).spawn().unwrap())
    };
    let nothing = show("", &[]).expect(0).json();
    assert_eq!(nothing["network"], serde_json::json!({ "value": null, "origin": "default" }));
    assert_eq!(
        (&nothing["file_exists"], &nothing["progress"]["value"]),
        (&false.into(), &"auto".into())
    );

    fs::create_dir_all(home.dir.join("config/floe")).unwrap();
    home.put(
        "config/floe/config.toml",
        b"network = \"../../network.json\"\nprogress = \"never\"\nepochs = 20\n",
    );
    let origins = |run: Run| {
        let shown = run.expect(0).json();
        ["network", "wallet", "progress", "epochs"].map(|name| shown[name]["origin"].clone())
    };
    assert_eq!(origins(show("", &[])), ["file", "default", "file", "file"]);
    assert_eq!(
        origins(show("x", &["--progress", "auto"])),
        ["environment", "default", "flag", "file"]
    );
    assert_eq!(origins(show("x", &["--network", "y"])), ["flag", "default", "file", "file"]);
    // An empty variable is none, and what the file names is used.
    let info = ["--json", "info", "--offline"];
    let run = home.command().env("FLOE_NETWORK", "").args(info).spawn().unwrap();
    assert_eq!(finish(run).expect(0).json()["name"], "test");

    home.put("config/floe/config.toml", b"netwrk = \"x\"\n");
    let run = show("", &[]).expect_error(1, "bad_config", false);
    assert!(run.json()["error"]["message"].as_str().unwrap().contains("netwrk"));
    // What packagers call does not depend on it.
    for shell in ["bash", "zsh", "fish"] {
        let script = home.floe(["completions", shell]).expect(0).text();
        assert!(script.contains("blob-status"), "{shell}");
    }
    assert!(home.floe(["man"]).expect(0).text().contains(".TH floe 1"));
    assert!(home.floe(["man", "node", "run"]).expect(0).text().contains("SIGUSR1"));
    home.floe(["--json", "man", "nothing"]).expect_error(2, "usage", false);
}

#[test]
fn a_network_is_used_by_the_name_that_it_was_given() {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::offline(&dir, "/ip4/127.0.0.1/tcp/1");
    let by_name = ["--json", "--network", "friends", "info", "--offline"];
    let unknown = home.floe(by_name).expect_error(2, "unknown_network", false).json();
    assert!(unknown["error"]["message"].as_str().unwrap().contains("known: none"), "{unknown}");
    let add = |name| ["--json", "network", "add", name, "--genesis", "network.json"];
    home.floe(add("../friends")).expect_error(2, "usage", false);
    home.floe(add("friends")).expect(0);
    home.floe(add("friends")).expect_error(1, "network_known", false);

    let info = home.floe(by_name).expect(0).json();
    assert_eq!(info["chain_id"], home.json(&["info", "--offline"])["chain_id"]);
    let list = home.json(&["network", "list"]);
    assert_eq!(list["networks"][0]["chain_id"], info["chain_id"]);
    assert_eq!(list["networks"].as_array().unwrap().len(), 1);
    // A bare genesis needs somebody to join at.
    let network: Value = serde_json::from_slice(&fs::read(&home.network).unwrap()).unwrap();
    home.put("genesis.json", network["genesis"].to_string().as_bytes());
    let bare = ["--json", "network", "add", "bare", "--genesis", "genesis.json"];
    home.floe(bare).expect_error(2, "no_peer", false);
    let peer = network["bootstrap"][0].as_str().unwrap();
    home.floe(bare.into_iter().chain(["--peer", peer])).expect(0);

    home.floe(["network", "remove", "friends"]).expect(0);
    let unknown = home.floe(by_name).expect_error(2, "unknown_network", false).json();
    assert!(unknown["error"]["message"].as_str().unwrap().ends_with("known: bare"), "{unknown}");
    let again = ["--json", "network", "remove", "friends"];
    home.floe(again).expect_error(3, "unknown_network", false);
}

#[test]
fn a_network_without_a_node_up_is_temporary() {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::offline(&dir, "/ip4/127.0.0.1/tcp/1");
    home.put("file", b"content");
    let commands: [&[&str]; 3] =
        [&["--json", "read", UNKNOWN_ID], &["--json", "store", "file"], &["--json", "health"]];
    let children = commands.map(|arguments| home.command().args(arguments).spawn().unwrap());
    let [read, store, health] = children.map(finish);
    read.expect_error(5, "nobody_answers", true);
    store.expect_error(5, "nobody_answers", true);
    assert_eq!(health.expect(5).json()["nodes_up"], 0);
    // What needs no node works.
    let info = home.floe(["info"]).expect(0);
    assert!(info.text().contains("64 on 4 nodes"), "{}", info.describe());
    assert!(info.stderr.contains("no bootstrap node answers"), "{}", info.describe());
    let info = home.floe(["--json", "info", "--offline"]).expect(0).json();
    assert_eq!((&info["n_shards"], &info["peers"]), (&64.into(), &Value::Null));
}

#[test]
fn interrupted_commands_leave_nothing_and_say_how_to_go_on() {
    let dir = tempfile::tempdir().unwrap();
    // Connections are taken by the system, and then nothing is said.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let home = Home::offline(&dir, &format!("/ip4/127.0.0.1/tcp/{port}"));
    let child = home.command().args(["read", UNKNOWN_ID, "-o", "out"]).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(8);
    while home.partial_files() == 0 {
        assert!(Instant::now() < deadline, "no temporary file");
        std::thread::yield_now();
    }
    signal(&child, "INT");
    let run = finish(child).expect(130);
    assert!(run.stderr.contains("-o out"), "{}", run.describe());
    assert_eq!(home.partial_files(), 0);
    assert!(!home.dir.join("out").exists());

    // More than a pipe holds: once it is written, the program reads.
    let mut child = home.command().args(["store", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&bytes(1, 1 << 19)).unwrap();
    signal(&child, "INT");
    let run = finish(child).expect(130);
    let hint = "what was paid and sent counts, resume with the same input";
    assert!(run.stderr.contains(hint), "{}", run.describe());
    drop(stdin);
}

#[test]
fn a_node_that_cannot_start_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::offline(&dir, "/ip4/127.0.0.1/tcp/1");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken_address = format!("/ip4/127.0.0.1/tcp/{}", taken.local_addr().unwrap().port());
    let run = |dir: &str, listen: &str, more: &[&str]| {
        let arguments = ["--json", "node", "run", "--dir", dir, "--listen", listen];
        home.floe(arguments.iter().chain(more))
    };
    const ANY: &str = "/ip4/127.0.0.1/tcp/0";
    run("n0", &taken_address, &[]).expect_error(1, "port_in_use", false);
    run("absent", ANY, &[]).expect_error(1, "file_not_found", false);
    home.put("blocker", b"");
    run("n0", ANY, &["--store", "blocker"]).expect_error(1, "store_dir", false);
    fs::remove_dir_all(home.dir.join("n0/store")).unwrap();
    let emptied = run("n0", ANY, &[]).expect_error(6, "store_emptied", false).json();
    assert!(emptied["error"]["hint"].as_str().unwrap().contains("--repair"), "{emptied}");
    fs::set_permissions(home.dir.join("n1/node.key"), fs::Permissions::from_mode(0o640)).unwrap();
    run("n1", ANY, &[]).expect_error(6, "key_permissions", false);

    // The first one runs until it is told to stop; a second one with its key does not start.
    let first = ["--json", "node", "run", "--dir", "n2", "--listen", ANY];
    let mut first = home.command().args(first).spawn().unwrap();
    let mut line = String::new();
    let stdout = first.stdout.as_mut().unwrap();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).unwrap();
    let up: Value = serde_json::from_str(&line).unwrap();
    assert!(up["addresses"][0].as_str().unwrap().contains("/p2p/"), "{line}");
    run("n2", ANY, &[]).expect_error(1, "key_locked", false);
    signal(&first, "USR1");
    let stderr = std::io::BufReader::new(first.stderr.take().unwrap());
    let lines: Vec<_> = std::io::BufRead::lines(stderr)
        .map(Result::unwrap)
        .take_while(|line| line != "# EOF")
        .collect();
    assert!(lines.iter().any(|line| line.starts_with("# TYPE ")), "{lines:?}");
    // Nobody reads its log any more, which is no reason to fail.
    signal(&first, "INT");
    finish(first).expect(0);
}
