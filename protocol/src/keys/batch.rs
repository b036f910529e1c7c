//! Many ed25519 signatures at once, for less than what they cost one by one.
//!
//! A list of transactions or a certificate is judged here. A batch holds if a random sum of its
//! equations does. Its factors are not drawn but hashed from the whole batch, keys, messages and
//! signatures, so whoever makes a batch can choose nothing once they are known, and this crate
//! needs no randomness.
//!
//! Invariants: a batch finds wrong exactly the signatures that [`PublicKey::verify`] finds wrong
//! (both follow ZIP-215: the equation is multiplied by the cofactor, points need not be canonical,
//! scalars must be), but for a chance of 2^-128 for each batch that somebody tries; one wrong
//! signature costs its batch the time saved, never a right one its verdict.

use std::convert::Infallible;

use ed25519_zebra::batch::{Item, Verifier};
use rand_core::{TryCryptoRng, TryRng};

use super::{PublicKey, Signature};
use crate::hash::{Domain, HASH_BYTES, Hash, Hasher};

/// Fewest signatures that are cheaper together than one by one.
const BATCH_MIN: usize = 3;

/// Signatures that are verified together.
pub(crate) struct SignatureBatch {
    items: Vec<Item>,
    /// Of all that was added.
    hasher: Hasher,
}

impl SignatureBatch {
    /// No signature yet: nothing is wrong.
    pub(crate) fn new() -> Self {
        Self { items: Vec::new(), hasher: Domain::SignatureBatch.hasher() }
    }

    /// Adds a signature of `key` over `message`.
    pub(crate) fn add(&mut self, key: &PublicKey, message: &[u8], signature: &Signature) {
        self.hasher.update(&key.0);
        self.hasher.update(&signature.0);
        self.hasher.update(&(message.len() as u64).to_le_bytes());
        self.hasher.update(message);
        let key = ed25519_zebra::VerificationKeyBytes::from(key.0);
        self.items.push(Item::from((key, ed25519_zebra::Signature::from(signature.0), message)));
    }

    /// The positions of those that do not verify, ascending, in the order in which they were
    /// added.
    pub(crate) fn wrong(self) -> Vec<usize> {
        if self.items.len() >= BATCH_MIN {
            let mut verifier = Verifier::new();
            for item in &self.items {
                verifier.queue(item.clone());
            }
            let factors = Factors { seed: self.hasher.finalize(), counter: 0 };
            if verifier.verify(factors).is_ok() {
                return Vec::new();
            }
        }
        let items = self.items.into_iter().enumerate();
        let wrong = items.filter(|(_, item)| item.clone().verify_single().is_err());
        wrong.map(|(position, _)| position).collect()
    }
}

/// Numbers that nobody knows before the whole batch is fixed.
struct Factors {
    seed: Hash,
    counter: u64,
}

impl Factors {
    fn next(&mut self) -> [u8; HASH_BYTES] {
        self.counter = self.counter.wrapping_add(1);
        let parts: [&[u8]; 2] = [self.seed.as_bytes(), &self.counter.to_le_bytes()];
        *Domain::SignatureBatch.hash(&parts).as_bytes()
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.fill(&mut bytes);
        bytes
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(HASH_BYTES) {
            let next = self.next();
            chunk.copy_from_slice(&next[..chunk.len()]);
        }
    }
}

impl TryRng for Factors {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(u32::from_le_bytes(self.bytes()))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(u64::from_le_bytes(self.bytes()))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        self.fill(bytes);
        Ok(())
    }
}

impl TryCryptoRng for Factors {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::KeyPair;

    type Signed = (PublicKey, Vec<u8>, Signature);

    /// Some keys sign more than once.
    fn signed(count: u8) -> Vec<Signed> {
        let sign = |i: u8| {
            let (key, message) = (KeyPair::from_seed([i / 2; 32]), vec![i; 10]);
            let signature = key.sign(&message);
            (key.public(), message, signature)
        };
        (0..count).map(sign).collect()
    }

    fn together(list: &[Signed]) -> Vec<usize> {
        let mut batch = SignatureBatch::new();
        for (key, message, signature) in list {
            batch.add(key, message, signature);
        }
        batch.wrong()
    }

    fn one_by_one(list: &[Signed]) -> Vec<usize> {
        let wrong = |(key, message, signature): &Signed| !key.verify(message, signature);
        let wrong = list.iter().enumerate().filter(|(_, signed)| wrong(signed));
        wrong.map(|(position, _)| position).collect()
    }

    #[test]
    fn nothing_is_wrong_with_right_signatures() {
        for count in [0, 1, 2, 3, 4, 33] {
            assert_eq!(together(&signed(count)), [0; 0], "{count}");
        }
    }

    #[test]
    fn the_wrong_ones_are_found() {
        let changes: [fn(&mut Signed); 5] = [
            |(_, message, _)| message[0] ^= 1,
            |(_, message, _)| message.push(0),
            |(_, _, signature)| signature.0[40] ^= 1,
            |(_, _, signature)| signature.0[0] ^= 1,
            |(key, _, _)| *key = KeyPair::from_seed([99; 32]).public(),
        ];
        for (i, change) in changes.into_iter().enumerate() {
            for count in [1, 2, 3, 9] {
                let mut list = signed(count);
                for wrong in 0..usize::from(count) {
                    change(&mut list[wrong]);
                    let expected: Vec<_> = (0..=wrong).collect();
                    assert_eq!(together(&list), expected, "change {i} of {count}");
                }
            }
        }
    }

    #[test]
    fn signatures_do_not_stand_in_for_each_other() {
        let mut list = signed(5);
        for signed in &mut list {
            signed.1 = b"the same".to_vec();
        }
        for (i, seed) in [0, 1, 2, 3, 4_u8].into_iter().enumerate() {
            let other = KeyPair::from_seed([(seed + 1) % 5; 32]);
            list[i].0 = KeyPair::from_seed([seed; 32]).public();
            list[i].2 = other.sign(b"the same");
        }
        assert_eq!(together(&list), [0, 1, 2, 3, 4]);
    }

    /// Encodings of the points of small order, non-canonical ones included, as ZIP-215 lists them.
    fn small_order() -> Vec<[u8; 32]> {
        let ends = |first, middle| {
            let mut bytes = [middle; 32];
            bytes[0] = first;
            bytes
        };
        let mut points = vec![
            ends(0, 0),
            ends(1, 0),
            bytes("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
            bytes("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
            ends(0xec, 0xff),
            ends(0xed, 0xff),
            ends(0xee, 0xff),
        ];
        for point in &mut points {
            point[31] &= 0x7f;
        }
        let negative = |mut point: [u8; 32]| {
            point[31] |= 0x80;
            point
        };
        let negative: Vec<_> = points.iter().copied().map(negative).collect();
        [points, negative].concat()
    }

    fn bytes(hex: &str) -> [u8; 32] {
        data_encoding::HEXLOWER.decode(hex.as_bytes()).unwrap().try_into().unwrap()
    }

    fn signature(point: [u8; 32], scalar: [u8; 32]) -> Signature {
        let mut bytes = [0; 64];
        bytes[..32].copy_from_slice(&point);
        bytes[32..].copy_from_slice(&scalar);
        Signature::new(bytes)
    }

    #[test]
    fn points_of_small_order_are_judged_as_one_by_one() {
        let points = small_order();
        let with = |scalar: [u8; 32]| {
            let sign =
                |key, point| (PublicKey::new(key), b"Zcash".to_vec(), signature(point, scalar));
            let pairs = points.iter().flat_map(|key| points.iter().map(|point| (*key, *point)));
            pairs.map(|(key, point)| sign(key, point)).collect::<Vec<Signed>>()
        };
        let zero = with([0; 32]);
        assert_eq!(zero.len(), 196);
        assert_eq!(one_by_one(&zero), [0; 0], "ZIP-215 accepts all of them");
        assert_eq!(together(&zero), [0; 0]);
        let mut one = [0; 32];
        one[0] = 1;
        assert_eq!(together(&with(one)), (0..196).collect::<Vec<_>>());
    }

    #[test]
    fn scalars_and_points_are_parsed_as_one_by_one() {
        // The order of the group: zero, but not written as it must be.
        let order = "edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010";
        // No point of the curve has this y.
        let mut no_point = [0; 32];
        no_point[0] = 2;
        let small = small_order()[2];
        let mut list = signed(6);
        list[0] = (PublicKey::new(small), Vec::new(), signature(small, bytes(order)));
        list[2] = (PublicKey::new(small), Vec::new(), signature(no_point, [0; 32]));
        list[3] = (PublicKey::new(no_point), Vec::new(), signature(small, [0; 32]));
        list[5] = (PublicKey::new(small), Vec::new(), signature(small, [0; 32]));
        assert_eq!(one_by_one(&list), [0, 2, 3]);
        assert_eq!(together(&list), [0, 2, 3]);
    }

    #[test]
    fn a_batch_is_judged_by_factors_of_its_own() {
        let factors = |list: &[Signed]| {
            let mut batch = SignatureBatch::new();
            for (key, message, signature) in list {
                batch.add(key, message, signature);
            }
            let mut factors = Factors { seed: batch.hasher.finalize(), counter: 0 };
            [factors.bytes::<16>(), factors.bytes::<16>()]
        };
        let list = signed(3);
        let [first, second] = factors(&list);
        assert_ne!(first, second);
        assert_eq!(factors(&list), [first, second], "the same for everybody");
        let mut others: Vec<_> = (0..4).map(|_| list.clone()).collect();
        others[0][2].1[0] ^= 1;
        others[1][2].2.0[63] ^= 1;
        others[2].swap(0, 1);
        others[3].pop();
        for other in others {
            assert_ne!(factors(&other)[0], first);
        }
    }
}
