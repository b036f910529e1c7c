//! Peers that stall or send something wrong keep no newcomer from the chain.

use std::fs;

use floe_node::network::InboundRequest;
use floe_protocol::{
    index::Height,
    keys::Signature,
    ledger::{Block, LatePrecommit, LedgerParameters},
    light::CertifiedHeader,
    message::{CertifiedBlock, LedgerRequest, LedgerResponse, Request, Response},
    vote::CommitCertificate,
};
use floe_testnet::Cluster;
use tokio::{sync::mpsc, time::timeout};

use super::swarm::{DEADLINE, Puppet, agree, committed, keys, ledger, pay, tip};

const HONEST: usize = 0;
const NEWCOMER: usize = 3;

/// What a liar knows of the chain.
type Chain = Vec<(Block, CommitCertificate)>;

/// What a liar sends instead of blocks; nothing if it stalls.
type Lie = fn(&Chain) -> Option<Vec<CertifiedBlock>>;

fn whole(chain: &[(Block, CommitCertificate)]) -> Vec<CertifiedBlock> {
    let certified = |(block, certificate): &(Block, CommitCertificate)| CertifiedBlock {
        block: block.to_bytes(),
        certificate: certificate.clone(),
    };
    chain.iter().map(certified).collect()
}

const GARBAGE: [(&str, Lie); 4] = [
    ("no blocks", |chain| {
        let mut blocks = whole(chain);
        blocks[0].block.truncate(100);
        Some(blocks)
    }),
    ("not the blocks asked for", |chain| Some(whole(&chain[1..]))),
    ("another body", |chain| {
        let mut chain = chain.clone();
        let (height, signature) = (Height::new(1), Signature::new([1; 64]));
        let late = LatePrecommit { height, round: 0, position: 0, signature };
        for (block, _) in &mut chain {
            block.body.commit_record.late.push(late);
        }
        Some(whole(&chain))
    }),
    ("too few precommits", |chain| {
        let mut blocks = whole(chain);
        blocks[0].certificate.signatures.truncate(1);
        Some(blocks)
    }),
];

/// Starts a newcomer among liars only, who have the keys of these members; once each of the lies
/// was told, an honest node comes.
async fn syncs_from_others(liars: &[usize], lies: &[(&str, Lie)]) {
    let parameters = LedgerParameters { heartbeat_ms: 20_000, ..LedgerParameters::default() };
    let builder = Cluster::builder().nodes(4).shards(7).ledger(parameters);
    let builder = builder.configure(|_, config| config.accept_empty = true);
    let mut cluster = builder.start().await.unwrap();
    cluster.wait_connected().await.unwrap();
    let mut blocks = ledger(&cluster, HONEST).committed();
    for nonce in 0..4 {
        let id = pay(&cluster, HONEST, nonce).await;
        committed(&mut blocks, id).await;
    }
    let last = tip(&cluster, HONEST);
    agree(&cluster, &[0, 1, 2, 3], last).await;
    let honest = ledger(&cluster, HONEST);
    let chain = (1..=last.get()).map(|height| honest.block(Height::new(height)).unwrap().unwrap());
    let chain: Chain = chain.collect();
    drop(honest);
    let liars: Vec<_> = liars.iter().map(|node| keys(&cluster, *node).node).collect();
    for node in 0..4 {
        cluster.stop(node).await.unwrap();
    }
    let dir = cluster.dir().join(format!("node-{NEWCOMER}"));
    fs::remove_dir_all(dir.join("ledger")).unwrap();
    cluster.start(NEWCOMER).await.unwrap();
    assert_eq!(tip(&cluster, NEWCOMER), Height::new(0));

    let (asked, mut asks) = mpsc::channel::<InboundRequest>(16);
    let mut networks = Vec::new();
    for key in liars {
        let Puppet { network, mut requests, .. } = Puppet::join(&cluster, key).await;
        networks.push(network);
        let asked = asked.clone();
        tokio::spawn(async move {
            while let Some(request) = requests.recv().await {
                asked.send(request).await.unwrap();
            }
        });
    }
    let (block, certificate) = chain.last().unwrap().clone();
    let newest = CertifiedHeader { header: block.header, certificate };
    let mut lies = lies.iter();
    let mut stalled = Vec::new();
    while lies.len() > 0 {
        let ask = timeout(DEADLINE, asks.recv()).await.expect("in time").unwrap();
        let InboundRequest { request: Request::Ledger(request), reply, .. } = ask else { continue };
        let answer = match request {
            LedgerRequest::Tip => LedgerResponse::Tip(Some(newest.clone())),
            LedgerRequest::Blocks { from, .. } => {
                assert_eq!(from, Height::new(1), "nothing wrong was taken");
                let (name, lie) = lies.next().unwrap();
                println!("{name}");
                let Some(blocks) = lie(&chain) else {
                    stalled.push(reply);
                    continue;
                };
                LedgerResponse::Blocks { blocks }
            }
            _ => continue,
        };
        reply.reply(Response::Ledger(Box::new(answer)));
    }
    cluster.start(HONEST).await.unwrap();
    agree(&cluster, &[HONEST, NEWCOMER], last).await;
    assert_eq!(tip(&cluster, NEWCOMER), last);
    drop(stalled);
    cluster.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_from_members_keeps_no_newcomer_from_the_chain() {
    syncs_from_others(&[1, 2], &GARBAGE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_never_answers_keeps_no_newcomer_from_the_chain() {
    syncs_from_others(&[1], &[("nothing", |_| None)]).await;
}
