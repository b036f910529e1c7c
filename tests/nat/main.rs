//! A storage node behind a router, on real sockets and a real NAT: the kernel's, between network
//! namespaces. It needs root; without it, the test says that it has shown nothing.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a helper of a test fails as the test does")]

mod internet;
mod nftables;
#[path = "../common/program.rs"]
#[expect(dead_code, reason = "this test uses a part of it")]
mod program;

use std::{
    fs,
    io::{self, BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use floe_node::network::{self, Network, NetworkConfig, Role};
use floe_protocol::{
    blob::BlobId,
    encoding::Axis,
    genesis::NetworkFile,
    index::SliverPairIndex,
    keys::{KeyPair, NodeId},
    message::{Limits, Refusal, Request, Response},
};
use prometheus_client::registry::Registry;
use tempfile::TempDir;
use tokio::time::timeout;

use self::{
    internet::{HOME, Internet, ROUTER, address, within},
    program::{Run, finish, program},
};

/// Nodes that everybody reaches. One more is at home.
const PUBLIC: usize = 4;
/// The machine from which a client stores and reads.
const CLIENT: usize = PUBLIC + 1;
const PORT: u16 = 4950;
const N_SHARDS: u16 = 20;
const BLOB_BYTES: usize = 3 << 20;
/// For whatever has to happen.
const DEADLINE: Duration = Duration::from_secs(30);

/// Nodes, each a process of its own, and the internet between them.
struct Swarm {
    dir: TempDir,
    nodes: Vec<Child>,
    internet: Internet,
}

impl Drop for Swarm {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            // One that has ended by itself is as good.
            drop(node.kill());
            drop(node.wait());
        }
    }
}

impl Swarm {
    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs the program in the namespace of the public internet.
    fn floe(&self, arguments: &[&str]) -> Run {
        let mut command = self.command(&self.internet.net);
        finish(command.args(arguments).stderr(Stdio::piped()).spawn().unwrap())
    }

    fn command(&self, namespace: &str) -> Command {
        let mut command = Internet::command(namespace, program());
        command
            .current_dir(self.dir.path())
            .env("FLOE_NETWORK", self.file("network.json"))
            .env("FLOE_WALLET", self.file("wallet.key"))
            .env("XDG_CONFIG_HOME", self.file("config"))
            .env("FLOE_LOG", "info")
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        command
    }

    /// Keys of all nodes, a network of them, and a wallet that can pay. The last node is at home.
    fn found(&self) {
        let mut arguments: Vec<String> = ["genesis", "--name", "nat", "--n-shards"]
            .iter()
            .map(ToString::to_string)
            .chain([N_SHARDS.to_string(), "--bootstrap".into()])
            .collect();
        let mut members = vec!["--member".to_owned()];
        for node in 1..=PUBLIC + 1 {
            let dir = format!("n{node}");
            let made = self.floe(&["--json", "node", "init", "--dir", &dir]).expect(0).json();
            members.push(format!("{dir}/member.json"));
            if node <= PUBLIC {
                let peer = made["peer"].as_str().unwrap();
                arguments.push(format!("/ip4/{}/tcp/{PORT}{peer}", address(node)));
            }
        }
        let account = self.floe(&["--json", "wallet", "new"]).expect(0).json();
        let account = account["account"].as_str().unwrap().to_owned();
        arguments.extend(members);
        arguments.extend(["--fund".into(), format!("{account}=1000")]);
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        self.floe(&arguments).expect(0);
    }

    /// Starts a node and waits until it is up.
    fn start(&mut self, node: usize) {
        let is_public = node <= PUBLIC;
        let ip = if is_public { address(node) } else { HOME.to_owned() };
        let listen = format!("/ip4/{ip}/tcp/{PORT}");
        let namespace = if is_public { &self.internet.net } else { &self.internet.home };
        let mut command = self.command(namespace);
        command.args(["node", "run", "--no-upnp", "--reserve", "16MiB"]).args([
            "--dir",
            &format!("n{node}"),
            "--listen",
            &listen,
        ]);
        if is_public {
            command.args(["--external", &listen]);
        } else {
            command.arg("--behind-nat");
        }
        command.stderr(fs::File::create(self.file(&format!("n{node}.log"))).unwrap());
        let mut child = command.spawn().unwrap();
        let stdout = child.stdout.take().unwrap();
        self.nodes.push(child);
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "node {node} did not start: {}", self.log(node));
    }

    fn log(&self, node: usize) -> String {
        fs::read_to_string(self.file(&format!("n{node}.log"))).unwrap()
    }

    fn network(&self) -> NetworkFile {
        serde_json::from_slice(&fs::read(self.file("network.json")).unwrap()).unwrap()
    }

    /// The node at home.
    fn hidden(&self) -> NodeId {
        let member = fs::read(self.file(&format!("n{}/member.json", PUBLIC + 1))).unwrap();
        let member: floe_protocol::genesis::GenesisMember =
            serde_json::from_slice(&member).unwrap();
        member.node
    }
}

/// Runs something in the public internet, on an own runtime.
fn online<T: Send>(internet: &Internet, run: impl Future<Output = T> + Send) -> T {
    let result = within(&internet.net, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(runtime.block_on(run))
    });
    result.unwrap()
}

/// A light peer with the public internet's addresses, which dials nobody yet.
async fn light_peer(file: &NetworkFile) -> Network {
    let committee = file.genesis.committee().unwrap();
    let limits = Limits::new(committee.config());
    let key = KeyPair::from_seed([9; 32]);
    let mut config = NetworkConfig::new(key, file.genesis.chain_id(), limits, Role::LightPeer);
    config.bootstrap = file.bootstrap.iter().map(|address| address.parse().unwrap()).collect();
    config.committee = committee.members().iter().map(|member| member.node).collect();
    let (network, mut inbound, _) = network::start(config, &mut Registry::default()).await.unwrap();
    tokio::spawn(async move { while inbound.requests.recv().await.is_some() {} });
    network
}

/// Asks a node for every primary sliver of a blob, and returns how many it had.
async fn slivers_of(network: &Network, node: NodeId, blob: BlobId) -> u16 {
    let mut served = 0;
    for pair in 0..N_SHARDS {
        let pair = SliverPairIndex::new(pair);
        let read = Request::ReadSliver { blob, pair, axis: Axis::Primary };
        match network.request(node, read).await.unwrap() {
            Response::Sliver { .. } => served += 1,
            Response::Refused(Refusal::WrongShard | Refusal::NotFound) => {}
            other => panic!("{other:?}"),
        }
    }
    served
}

/// Whether the router keeps out what nobody inside has asked for.
fn router_lets_nothing_in(internet: &Internet) {
    let dials = |to: &str| {
        let to: SocketAddr = format!("{to}:{PORT}").parse().unwrap();
        within(&internet.net, || TcpStream::connect_timeout(&to, Duration::from_millis(500)))
    };
    let inside = within(&internet.home, || TcpListener::bind((HOME, PORT))).unwrap();
    assert!(dials(ROUTER).is_err(), "the router forwards a port");
    assert!(dials(HOME).is_err(), "the router lets strangers in");
    drop(inside);
    let outside = within(&internet.net, || TcpListener::bind((address(1), PORT))).unwrap();
    let to = outside.local_addr().unwrap();
    let dialled = within(&internet.home, || TcpStream::connect_timeout(&to, DEADLINE)).unwrap();
    let (_, seen) = outside.accept().unwrap();
    assert_eq!(seen.ip().to_string(), ROUTER, "the router does not translate");
    drop(dialled);
}

fn store(swarm: &Swarm, blob: &Path) -> BlobId {
    let stored = swarm.floe(&["--json", "store", blob.to_str().unwrap()]).expect(0).json();
    let unreached = stored["unreached"].as_array().unwrap();
    assert!(unreached.is_empty(), "{unreached:?}\n{}", swarm.log(PUBLIC + 1));
    stored["blob_id"].as_str().unwrap().parse().unwrap()
}

#[test]
fn a_node_behind_a_router_stores_and_serves_its_slivers_through_a_relay() {
    let internet = match Internet::new(CLIENT) {
        Ok(internet) => internet,
        Err(error) => {
            let text = format!("SKIPPED: needs root and network namespaces ({error})\n");
            io::stderr().write_all(text.as_bytes()).unwrap();
            return;
        }
    };
    router_lets_nothing_in(&internet);
    let mut swarm = Swarm { dir: tempfile::tempdir().unwrap(), nodes: Vec::new(), internet };
    swarm.found();
    for node in 1..=PUBLIC + 1 {
        swarm.start(node);
    }
    let (file, hidden) = (swarm.network(), swarm.hidden());
    let weight = file.genesis.committee().unwrap().member(&hidden).unwrap().weight();
    assert!(weight > 0);
    // A client finds it by asking others for it, and reaches it where it says.
    online(&swarm.internet, async {
        let network = light_peer(&file).await;
        let reached =
            async { while network.request(hidden, Request::NodeStatus).await.is_err() {} };
        timeout(DEADLINE, reached).await.expect("it is not reachable");
        let address = network.peers().borrow().connected[&hidden].address.to_string();
        assert!(address.contains("/p2p-circuit"), "{address}");
    });

    let bytes: Vec<u8> = (0..BLOB_BYTES).map(|i| u8::try_from(i * i / 7 % 251).unwrap()).collect();
    fs::write(swarm.file("blob"), &bytes).unwrap();
    let blob = store(&swarm, &swarm.file("blob"));
    swarm.floe(&["read", &blob.to_string(), "--output", "copy"]).expect(0);
    assert!(fs::read(swarm.file("copy")).unwrap() == bytes, "another blob came back");
    let served = online(&swarm.internet, async {
        let network = light_peer(&file).await;
        timeout(DEADLINE, slivers_of(&network, hidden, blob)).await.expect("it answers too slowly")
    });
    assert_eq!(served, weight, "{}", swarm.log(PUBLIC + 1));
}
