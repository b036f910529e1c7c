#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_parse_strictly() {
        let record = PairRecord {
            state: State::Damaged,
            generation: 3,
            primary_bytes: 70_000,
            secondary_bytes: 1,
        };
        let bytes = record.to_bytes();
        assert_eq!(PairRecord::parse(&bytes), Some(record));
        assert_eq!(PairRecord::parse(&bytes[1..]), None);
        assert_eq!(PairRecord::parse(&[4; RECORD_BYTES]), None);
    }

    #[test]
    fn a_piece_is_bound_to_its_place() {
        let pair = [1; key::PAIR_KEY_BYTES];
        let here = key::piece(0, &pair, Axis::Primary, 4);
        let value = [&checksum(&here, b"piece")[..], b"piece"].concat();
        assert_eq!(sound_piece(&here, &value), Some(&b"piece"[..]));
        for elsewhere in [
            key::piece(0, &pair, Axis::Primary, 5),
            key::piece(0, &pair, Axis::Secondary, 4),
            key::piece(1, &pair, Axis::Primary, 4),
        ] {
            assert_eq!(sound_piece(&elsewhere, &value), None);
        }
        assert_eq!(sound_piece(&here, &value[..value.len() - 1]), None);
        assert_eq!(sound_piece(&here, b"short"), None);
    }

    fn open(dir: &std::path::Path) -> (Slivers, crate::database::Database) {
        let database =
            crate::database::Database::open(dir, 1 << 20, crate::database::BACKLOG_BYTES_MAX)
                .unwrap();
        let records = database.table(crate::schema::SLIVERS).unwrap();
        let pieces = crate::schema::PIECES.map(|name| database.table(name).unwrap());
        let space = Arc::new(Space::new(dir, u64::MAX, 0));
        let slivers = Slivers::open(records, pieces.into(), space).unwrap();
        (slivers, database)
    }

    #[test]
    fn what_was_left_unfinished_is_removed_at_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let pair = |number| [number; key::PAIR_KEY_BYTES];
        let sliver = vec![3; 3 * PIECE_BYTES + 1];
        let (slivers, database) = open(dir.path());
        for number in [1, 2, 3] {
            slivers.put(&pair(number), &sliver, &sliver).unwrap();
        }
        let counted = slivers.space.live_bytes();
        // What a put leaves that ended before its last record, and a deletion behind its first.
        let record = slivers.record(&pair(2)).unwrap().unwrap();
        let unfinished = record.with(State::Unfinished).to_bytes();
        slivers.records.insert(&pair(2), &unfinished).unwrap();
        assert!(!slivers.has(&pair(2)).unwrap());
        database.flush().unwrap();
        drop((slivers, database));

        let (slivers, _database) = open(dir.path());
        assert_eq!(slivers.pairs(), 2);
        assert_eq!(slivers.space.live_bytes(), counted / 3 * 2);
        assert_eq!(slivers.record(&pair(2)).unwrap(), None);
        assert_eq!(slivers.pieces[0].rows().count(), 2 * 2 * 4);
        assert!(slivers.get(&pair(3), Axis::Secondary).unwrap().unwrap() == sliver);
    }

    #[test]
    fn an_absent_piece_makes_its_pair_missing() {
        let dir = tempfile::tempdir().unwrap();
        let (slivers, _database) = open(dir.path());
        let pair = [1; key::PAIR_KEY_BYTES];
        let sliver = vec![3; 3 * PIECE_BYTES];
        slivers.put(&pair, &sliver, &sliver).unwrap();
        let place = |index| key::piece(0, &pair, Axis::Primary, index);
        // A piece in another's place is as good as none.
        let other = slivers.pieces[0].get(&place(0)).unwrap().unwrap();
        slivers.pieces[0].insert(&place(1), &other).unwrap();
        assert!(slivers.get(&pair, Axis::Secondary).unwrap().is_some());
        assert_eq!(slivers.get(&pair, Axis::Primary).unwrap(), None);
        assert!(!slivers.has(&pair).unwrap());
        assert_eq!((slivers.pairs(), slivers.damaged_pieces()), (0, 1));
        slivers.put(&pair, &sliver, &sliver).unwrap();
        assert_eq!(slivers.record(&pair).unwrap().unwrap().generation, 1);
        slivers.pieces[1].remove(&key::piece(1, &pair, Axis::Primary, 2)).unwrap();
        assert_eq!(slivers.get(&pair, Axis::Primary).unwrap(), None);
        assert_eq!((slivers.pairs(), slivers.damaged_pieces()), (0, 2));
    }

    #[test]
    fn a_damaged_pair_goes_with_its_blob() {
        use floe_protocol::{
            blob::BlobHeader,
            hash::Hash,
            index::{Height, ShardIndex},
            keys::NodeId,
        };

        let home = tempfile::tempdir().unwrap();
        let (dir, marker) = (home.path().join("store"), home.path().join("marker"));
        let config = crate::StoreConfig::new(dir, marker, NodeId::new([1; 32]));
        let header = BlobHeader { n_shards: 7, len: 9, root: Hash::new([3; 32]) };
        let (shard, blob) = (ShardIndex::new(6), header.id());
        let sliver = vec![3; 3 * PIECE_BYTES];

        let store = crate::Store::open(&config).unwrap();
        for is_alone in [false, true] {
            store.put_table(&header, Height::new(1), &[(shard, vec![1; 100])]).unwrap();
            for shard in [ShardIndex::new(2), shard] {
                store.put_pair(shard, &blob, &sliver, &sliver).unwrap();
            }
            let pair = key::pair(shard, &blob);
            let slivers = &store.tables.slivers;
            let generation = slivers.record(&pair).unwrap().unwrap().generation;
            let place = key::piece(generation, &pair, Axis::Primary, 2);
            slivers.table(generation).remove(&place).unwrap();
            assert_eq!(store.sliver(shard, &blob, Axis::Primary).unwrap(), None);
            assert_eq!(slivers.record(&pair).unwrap().unwrap().state, State::Damaged);
            if is_alone {
                store.delete_pair(ShardIndex::new(2), &blob).unwrap();
            }

            assert!(store.remove_blob(&blob, 7).unwrap());
            assert_eq!(slivers.record(&pair).unwrap(), None);
            assert!(!store.remove_blob(&blob, 7).unwrap());
            assert_eq!((store.usage().live_bytes, store.usage().pairs), (0, 0));
        }
        store.flush().unwrap();
        drop(store);
        let store = crate::Store::open(&config).unwrap();
        assert_eq!(store.tables.slivers.records.rows().count(), 0);
        assert_eq!((store.usage().live_bytes, store.usage().blobs), (0, 0));
    }
}
