//! Who keeps a shard, as the ledger says it over epochs, and what nodes and readers make of it.

use std::{collections::BTreeMap, sync::Arc};

use floe_protocol::{
    blob::BlobId,
    committee::Committee,
    holders::Holders,
    index::{Epoch, ShardIndex, SliverPairIndex},
    keys::NodeId,
    ledger::Keeper,
    migration::{Holding, MigrationPlan, plan},
    test_support::Chain,
    transfer::{Download, DownloadConfig, DownloadInput, DownloadOutput, SliverFault, Sources},
};

use super::{
    Amount, N,
    epochs::{epoch, join, key, ready, six, three_of_seven_moved},
    members, report_ready, report_shards, to_deadline,
};

fn holders(chain: &Chain) -> Holders {
    let records = chain.state.shards(&chain.store).unwrap();
    Holders::new(Arc::clone(chain.state.committee()), records).unwrap()
}

/// The plan of a node that has something of this shard.
pub(crate) fn plan_of(chain: &Chain, me: &NodeId, shard: ShardIndex) -> MigrationPlan {
    let holdings = BTreeMap::from([(shard, Holding::Partial)]);
    plan(&holders(chain), None, me, &holdings)
}

fn named(chain: &Chain, shard: ShardIndex, first_epoch: u64) -> Vec<NodeId> {
    holders(chain).of(shard, Epoch::new(first_epoch)).collect()
}

/// Epoch 1 stretches over two durations, until three of seven shards return. The shards, with
/// their holder and their interim holder.
fn returned() -> (Chain, Vec<(ShardIndex, NodeId, NodeId)>) {
    let (mut chain, before, _) = three_of_seven_moved();
    let interim = Arc::clone(chain.state.committee());
    let all = [0, 1, 2, 3, 4, 5];
    report_ready(&mut chain, &all);
    for _ in 0..4 {
        to_deadline(&mut chain);
    }
    assert_eq!((epoch(&chain), members(&chain)), (2, all.to_vec()));
    let moved = (0..N).map(ShardIndex::new).filter_map(|shard| {
        let holder = |committee: &Committee| committee.members()[committee.holder(shard)].node;
        (holder(&before) != holder(&interim)).then(|| (shard, holder(&before), holder(&interim)))
    });
    let moved: Vec<_> = moved.collect();
    assert_eq!(moved.len(), 3);
    (chain, moved)
}

#[test]
fn the_interim_holder_of_a_returned_shard_is_asked_for_what_was_certified_in_its_time() {
    let (mut chain, moved) = returned();
    for (shard, holder, interim) in &moved {
        let [before, during] = [(holder, 1, true), (interim, 2, false)];
        let keepers = [before, during].map(|(node, until, complete)| Keeper {
            node: *node,
            until: Epoch::new(until),
            complete,
        });
        assert_eq!(holders(&chain).shard(*shard).keepers, keepers);
        assert_eq!(named(&chain, *shard, 0), [*holder, *interim]);
        assert_eq!(named(&chain, *shard, 1), [*interim, *holder]);
        assert_eq!(named(&chain, *shard, 2), [*holder]);

        // The holder copies from it what it lacks of that time, and recovers the rest.
        let lacks = [0, 1, 2].map(|first| (Epoch::new(first), std::slice::from_ref(shard)));
        let fetches = plan_of(&chain, holder, *shard).fetches(lacks, |_| true);
        assert_eq!(fetches.copies, BTreeMap::from([((*interim, *shard), vec![1])]));
        assert_eq!(fetches.recoveries.keys().copied().collect::<Vec<_>>(), [0, 2]);
        assert_eq!(plan_of(&chain, interim, *shard).guarded, [*shard]);
    }
    // The flag alone frees nothing; the end of an epoch with a quorum of flags does.
    let all = members(&chain);
    report_ready(&mut chain, &all);
    report_shards(&mut chain, &all);
    for (shard, holder, interim) in &moved {
        assert_eq!(named(&chain, *shard, 1), [*holder, *interim]);
        assert_eq!(plan_of(&chain, interim, *shard).guarded, [*shard]);
    }
    chain.next_epoch();
    assert_eq!((epoch(&chain), ready(&chain)), (3, 7));
    for (shard, holder, interim) in &moved {
        assert_eq!(named(&chain, *shard, 1), [*holder]);
        assert_eq!(plan_of(&chain, interim, *shard).released, [*shard]);
    }
}

#[test]
fn a_read_after_a_return_gets_each_row_from_who_has_it() {
    let (chain, moved) = returned();
    // With the rows that it wants in shards that returned.
    let blob = (0..=255).map(|seed| BlobId::new([seed; 32])).find(|blob| {
        let shards = [0, 1, 2].map(|row| blob.shard_of(SliverPairIndex::new(row), N));
        shards.iter().filter(|shard| moved.iter().any(|(moved, ..)| moved == *shard)).count() > 1
    });
    let blob = blob.unwrap();
    let sources = Sources::new(&holders(&chain), &blob, Epoch::new(1));
    let mut download = Download::new(DownloadConfig::default(), &sources, 0..3);
    let mut inputs = vec![DownloadInput::Tick];
    let (mut emitted, mut asked) = (0, 0);
    while let Some(input) = inputs.pop() {
        for output in download.handle(1, input) {
            match output {
                DownloadOutput::Ask { node, pair } => {
                    let shard = blob.shard_of(pair, N);
                    let home = moved.iter().find(|(moved, ..)| *moved == shard);
                    let has = home.is_none_or(|(_, _, interim)| *interim == node);
                    let fault = SliverFault::NotFound;
                    asked += 1;
                    inputs.push(match has {
                        true => DownloadInput::Received { node, pair },
                        false => DownloadInput::Failed { node, pair, fault },
                    });
                }
                DownloadOutput::Emit(rows) => emitted += rows.len(),
                DownloadOutput::Done => {}
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!((emitted, asked), (3, 3), "each row from the first that is asked");
}

#[test]
fn an_epoch_that_ends_without_a_quorum_of_flags_frees_no_copy() {
    let mut chain = six();
    let newcomers = [6, 7, 8, 9];
    for i in newcomers {
        join(&mut chain, i, Amount::from_wal(300));
    }
    let before = Arc::clone(chain.state.committee());
    let newcomers = newcomers.map(usize::from);
    report_ready(&mut chain, &newcomers);
    to_deadline(&mut chain);
    to_deadline(&mut chain);
    assert_eq!((members(&chain), ready(&chain)), (newcomers.to_vec(), 0));
    let two = |i: &usize| chain.state.committee().member(&key(*i)).unwrap().weight() == 2;
    let ready_ones: Vec<_> = newcomers.into_iter().filter(two).take(2).collect();
    report_shards(&mut chain, &ready_ones);
    assert_eq!(ready(&chain), 4, "no quorum of seven");
    report_ready(&mut chain, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    for _ in 0..4 {
        to_deadline(&mut chain);
    }
    assert_eq!(epoch(&chain), 2, "the others return");
    for shard in (0..N).map(ShardIndex::new) {
        let loser = before.members()[before.holder(shard)].node;
        let plan = plan_of(&chain, &loser, shard);
        assert!(plan.released.is_empty(), "{shard} may have to be fetched from here");
        assert!(named(&chain, shard, 0).contains(&loser));
    }
    let all = members(&chain);
    report_ready(&mut chain, &all);
    report_shards(&mut chain, &all);
    chain.next_epoch();
    let holds = |loser: &NodeId, shard| holders(&chain).holder(shard) == *loser;
    for shard in (0..N).map(ShardIndex::new) {
        let loser = before.members()[before.holder(shard)].node;
        let plan = plan_of(&chain, &loser, shard);
        assert_eq!(plan.released.is_empty(), holds(&loser, shard), "{shard}");
    }
}
