//! Ledgers that begin with a snapshot: whole or not at all, and they go on as all others.

use floe_protocol::{
    committee::CommitteeFact,
    genesis::{Genesis, GenesisAccount},
    handover::{HandoverCertificate, HandoverFact},
    index::{Epoch, Height},
    keys::{BlsKeyPair, KeyPair},
    ledger::{
        AccountId, Amount, Entry, Key, Operation, Record, SnapshotManifest, SnapshotRestore,
        SnapshotWriter, State, StateProof, StateReader as _,
    },
    light::Finality,
    test_support::{Chain, account_key, genesis, node_keys},
};
use floe_storage::{
    CommitError, Installation, InstalledEnd, LedgerStore, LedgerStoreConfig, Snapshot,
};

use crate::{
    common::{Home, copy},
    crash::images,
};

/// So small that a state has several runs.
const MERGE_BYTES: usize = 64 << 10;

/// A chain of some epochs, whose last block ends one.
struct World {
    genesis: Genesis,
    chain: Chain,
    manifest: SnapshotManifest,
    chunks: Vec<Vec<u8>>,
    /// Positions of the blocks that end epochs, but for the last block.
    ends: Vec<usize>,
}

impl World {
    fn new() -> Self {
        let mut genesis = genesis(4, 10);
        let balance = genesis.accounts[0].balance;
        genesis.accounts.extend((0..2_000_u32).map(|number| {
            let mut seed = [8; 32];
            seed[..4].copy_from_slice(&number.to_le_bytes());
            let account = AccountId::new(KeyPair::from_seed(seed).public());
            GenesisAccount { account, balance }
        }));
        genesis.accounts.sort_by_key(|account| account.account);
        let mut chain = Chain::new(&genesis);
        let mut ends = Vec::new();
        for _ in 0..3 {
            transfer(&mut chain);
            chain.next_epoch();
            ends.push(chain.blocks.len() - 1);
        }
        ends.pop();
        let (header, height) = (chain.blocks.last().unwrap().0.header, chain.blocks.len() as u64);
        let mut writer = SnapshotWriter::default();
        let mut chunks = Vec::new();
        for (key, value) in chain.store.values(height) {
            chunks.extend(writer.push(&key, value).unwrap());
        }
        let committee = chain.state.committee().to_bytes();
        let (last, manifest) = writer.finish(header, committee).unwrap();
        chunks.push(last);
        Self { genesis, chain, manifest, chunks, ends }
    }

    /// Writes the state; the caller makes it count.
    fn write(&self, store: &LedgerStore) -> Installation {
        let mut installation = store.begin_install(self.manifest.header.height).unwrap();
        let mut restore = SnapshotRestore::new(self.manifest.clone()).unwrap();
        for chunk in &self.chunks {
            installation.write(restore.take(chunk).unwrap()).unwrap();
        }
        installation.write(restore.finish().unwrap()).unwrap();
        installation
    }

    fn install(&self, store: &LedgerStore, installation: Installation) -> Result<(), CommitError> {
        let committees: Vec<_> =
            self.ends.iter().map(|at| self.committee_after(*at).to_bytes()).collect();
        let finalities: Vec<_> = self.ends.iter().map(|at| self.finality(*at)).collect();
        let ends = self.ends.iter().zip(&finalities).zip(&committees);
        let ends: Vec<_> = ends
            .map(|((at, finality), next_committee)| InstalledEnd {
                header: &self.chain.blocks[*at].0.header,
                finality,
                next_committee,
            })
            .collect();
        let (block, certificate) = self.chain.blocks.last().unwrap();
        store.install(
            installation,
            &Snapshot {
                header: &block.header,
                certificate,
                next_committee: Some(&self.manifest.committee),
                ends: &ends,
                tip: b"tip",
            },
        )
    }

    /// What proves the end of an epoch: of the first one a hand-over certificate alone.
    fn finality(&self, at: usize) -> Finality {
        let (block, certificate) = &self.chain.blocks[at];
        if at != self.ends[0] {
            return Finality::Commit(certificate.clone());
        }
        let committee = self.genesis.committee().unwrap();
        let fact = HandoverFact::new(&block.header);
        let sign = |(node, bls): &(KeyPair, BlsKeyPair)| {
            let position = committee.position(&node.public()).unwrap();
            (position, fact.sign(&self.chain.id(), bls))
        };
        let signatures: Vec<_> = node_keys(4).iter().map(sign).collect();
        Finality::Handover(HandoverCertificate::new(&committee, fact, &signatures).unwrap())
    }

    fn committee_after(&self, at: usize) -> floe_protocol::committee::Committee {
        let epoch = self.chain.blocks[at].0.header.epoch.plus(1);
        let (_, entry) =
            self.chain.store.value(&Key::Committee(epoch).hash(), u64::MAX).unwrap().unwrap();
        let Some(Record::Committee(bytes)) =
            Entry::from_bytes(&entry.unwrap()).map(|entry| entry.record)
        else {
            unreachable!("a committee is under its key")
        };
        floe_protocol::committee::Committee::from_bytes(&bytes).unwrap()
    }

    /// A store at genesis.
    fn begin(&self, home: &Home) -> LedgerStore {
        let store = open(home);
        let (_, change) = State::genesis(&self.genesis).unwrap();
        store.commit_genesis(&change, b"genesis").unwrap();
        store
    }

    /// Checks that the store is at the snapshot, or at a block behind it.
    fn check(&self, store: &LedgerStore, tip: u64) {
        let first = self.manifest.header.height;
        assert_eq!(store.tip().unwrap(), Some((Height::new(tip), b"tip".to_vec())));
        assert_eq!(store.first(), first);
        let all = || 1..=tip + 1;
        for height in all().map(Height::new) {
            let at = usize::try_from(height.get()).unwrap() - 1;
            let known = self.chain.blocks.get(at).filter(|_| height.get() <= tip);
            let block = known.filter(|_| height > first);
            assert_eq!(store.block(height).unwrap(), block.map(|(block, _)| block.clone()));
            let named = known.filter(|_| height >= first || self.ends.contains(&at));
            assert_eq!(store.header(height).unwrap(), named.map(|(block, _)| block.header));
            let committed = named.filter(|_| at != self.ends[0]);
            let certificate = committed.map(|(_, certificate)| certificate.clone());
            assert_eq!(store.certificate(height).unwrap(), certificate, "at {height}");
            let sent = store.blocks(height, 1).unwrap();
            assert_eq!(sent.len(), usize::from(block.is_some()), "at {height}");
            if let Some((block, _)) = named.filter(|_| height >= first) {
                assert_eq!(store.height_of(&block.header.hash()).unwrap(), Some(height));
            }
        }
        for (epoch, at) in self.ends.iter().enumerate() {
            let epoch = Epoch::new(epoch as u64);
            assert_eq!(store.epoch_end(epoch).unwrap(), Some(Height::new(*at as u64 + 1)));
            let committee = self.committee_after(*at).to_bytes();
            assert_eq!(store.committee(epoch.plus(1)).unwrap(), Some(committee));
            let certificate = match self.finality(*at) {
                Finality::Handover(certificate) => Some(certificate),
                Finality::Commit(_) => None,
            };
            assert_eq!(store.handover_certificate(epoch).unwrap(), certificate);
        }
        let last = Epoch::new(self.ends.len() as u64);
        assert_eq!(store.epoch_end(last).unwrap(), Some(first));
        let committee = Some(self.manifest.committee.clone());
        assert_eq!(store.committee(last.plus(1)).unwrap(), committee);
        let key = Key::Account(AccountId::new(account_key(1).public()));
        let oldest = store.oldest_state().unwrap();
        assert!(oldest >= first);
        for height in (oldest.get()..=tip).map(Height::new) {
            let root = store.header(height).unwrap().unwrap().state_root;
            let proof = StateProof::new(store, height.get(), &key).unwrap();
            assert!(proof.verify(&root, &key).unwrap().is_some());
        }
    }

    /// The state at the store's tip, as a node loads it.
    fn load(&self, store: &LedgerStore) -> State {
        let (origin, _) = State::genesis(&self.genesis).unwrap();
        let (tip, _) = store.tip().unwrap().unwrap();
        assert_eq!(store.checkpoint(), Some(tip), "merged");
        State::load(&origin, &store.header(tip).unwrap().unwrap(), store).unwrap()
    }

    /// Commits what the chain has above the store's tip.
    fn follow(&self, store: &LedgerStore) {
        let mut state = self.load(store);
        for (block, certificate) in &self.chain.blocks {
            if block.header.height == state.next_height() {
                let executed = state.execute(store, block, &|_| true).unwrap();
                store.commit_executed(block, certificate, &executed, b"tip").unwrap();
                state = executed.next;
            }
        }
        assert_eq!(state.tip(), self.chain.state.tip());
    }
}

fn transfer(chain: &mut Chain) {
    let to = AccountId::new(account_key(1).public());
    let operation = Operation::Transfer { to, amount: Amount::from_frost(7) };
    let signed = chain.sign(&account_key(0), vec![operation]);
    chain.commit(&[signed]);
}

fn config(home: &Home) -> LedgerStoreConfig {
    LedgerStoreConfig {
        merge_heights: u64::MAX,
        idle_ms: u64::MAX,
        merge_bytes: MERGE_BYTES,
        ..home.config()
    }
}

fn open(home: &Home) -> LedgerStore {
    LedgerStore::open(&config(home)).unwrap()
}

#[test]
fn a_ledger_begins_with_a_snapshot_and_goes_on() {
    let mut world = World::new();
    let home = Home::new();
    let store = world.begin(&home);
    let first = world.manifest.header.height.get();
    let installation = world.write(&store);
    assert_eq!(store.tip().unwrap().unwrap().0, Height::new(0), "nothing counts yet");
    world.install(&store, installation).unwrap();
    world.check(&store, first);
    let height = Height::new(first);
    let listed: Vec<_> = store.values(height).unwrap().map(Result::unwrap).collect();
    let expected = world.chain.store.values(first).map(|(key, value)| (key, value.to_vec()));
    assert_eq!(listed, expected.collect::<Vec<_>>());
    assert_eq!(
        store.index(&[0][..]..&[6][..], usize::MAX).unwrap(),
        world.chain.store.index(&[0][..]..&[6][..], usize::MAX).unwrap()
    );
    drop(store);
    let store = open(&home);
    world.check(&store, first);
    for _ in 0..30 {
        transfer(&mut world.chain);
    }
    world.follow(&store);
    let tip = world.chain.blocks.len() as u64;
    world.check(&store, tip);
    store.persist().unwrap();
    drop(store);
    let store = open(&home);
    world.check(&store, tip);
    let error = store.begin_install(height).unwrap_err();
    assert!(matches!(error, CommitError::NotEmpty(found) if found == Height::new(tip)), "{error}");
}

#[test]
fn a_state_that_came_too_late_or_of_another_height_is_not_installed() {
    let world = World::new();
    let home = Home::new();
    let store = world.begin(&home);
    let other = store.begin_install(Height::new(3)).unwrap();
    let refused = world.install(&store, other).unwrap_err();
    assert!(matches!(refused, CommitError::OutOfOrder { found: 3, .. }), "{refused}");
    let late = world.write(&store);
    let (origin, _) = State::genesis(&world.genesis).unwrap();
    let (block, certificate) = &world.chain.blocks[0];
    let executed = origin.execute(&store, block, &|_| true).unwrap();
    store.commit_executed(block, certificate, &executed, b"tip").unwrap();
    let refused = world.install(&store, late).unwrap_err();
    assert!(matches!(refused, CommitError::NotEmpty(_)), "{refused}");
    store.persist().unwrap();
    drop(store);
    let store = open(&home);
    assert_eq!(store.first(), Height::new(0));
    world.follow(&store);
    assert_eq!(store.block(Height::new(1)).unwrap().as_ref(), Some(block));
}

/// Goes on from a crash: by the snapshot that is there, or by making it again.
fn recovers(world: &World, image: &Home, what: &str) -> bool {
    let store = open(image);
    let first = world.manifest.header.height;
    let (tip, _) = store.tip().unwrap().expect("genesis was committed");
    let is_whole = tip == first;
    if !is_whole {
        assert_eq!((tip, store.first()), (Height::new(0), Height::new(0)), "{what}");
        assert_eq!(store.header(first).unwrap(), None, "{what}");
        assert_eq!(store.epoch_end(Epoch::new(0)).unwrap(), None, "{what}");
        assert_eq!(store.handover_certificate(Epoch::new(0)).unwrap(), None, "{what}");
        let root = State::genesis(&world.genesis).unwrap().0.tip().state_root;
        assert_eq!(floe_protocol::ledger::state_root(&store, 0).unwrap(), root, "{what}");
        world.install(&store, world.write(&store)).unwrap();
    }
    world.check(&store, first.get());
    drop(store);
    let store = open(image);
    world.check(&store, first.get());
    is_whole
}

#[test]
fn an_install_cut_anywhere_is_whole_or_undone() {
    let world = World::new();
    let (mut undone, mut whole) = (0, 0);
    for round in 0..4 {
        let home = Home::new();
        let store = world.begin(&home);
        // Cuts fall into the writing of the state, or into what makes it count.
        let written = (round % 2 > 0).then(|| world.write(&store));
        let work = || {
            let installation = written.unwrap_or_else(|| world.write(&store));
            world.install(&store, installation).unwrap();
        };
        for (cut, image) in images(&home, work).iter().enumerate() {
            if recovers(&world, image, &format!("round {round} cut at {cut}")) {
                whole += 1;
            } else {
                undone += 1;
            }
        }
    }
    assert!(undone > 10 && whole > 1, "{undone} undone, {whole} whole");
}

/// A crash between the two: what was installed is not called so, but is there whole or not at all.
#[test]
fn what_was_written_and_not_installed_is_gone_after_a_crash() {
    let world = World::new();
    let home = Home::new();
    let store = world.begin(&home);
    let installation = world.write(&store);
    let crashed = Home::new();
    copy(home.path(), crashed.path());
    drop(installation);
    drop(store);
    assert!(!recovers(&world, &crashed, "written"));
    let store = open(&home);
    world.install(&store, world.write(&store)).unwrap();
    world.check(&store, world.manifest.header.height.get());
}
