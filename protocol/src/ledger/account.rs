//! Accounts: who holds WAL. An account is an ed25519 key, printed bech32m with the prefix `wal`.

use std::{fmt, str::FromStr};

use bech32::{Bech32m, Hrp, primitives::decode::CheckedHrpstring};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::keys::PublicKey;

const PREFIX: Hrp = Hrp::parse_unchecked("wal");

/// The name of an account: its public key. `wal1…` where people read, raw bytes in CBOR.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    borsh::BorshSerialize,
    borsh::BorshDeserialize,
)]
pub struct AccountId(PublicKey);

impl AccountId {
    /// The account of a public key.
    #[must_use]
    pub const fn new(key: PublicKey) -> Self {
        Self(key)
    }

    /// The account's public key.
    #[must_use]
    pub const fn key(&self) -> &PublicKey {
        &self.0
    }
}

impl fmt::Display for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        bech32::encode_to_fmt::<Bech32m, _>(f, PREFIX, self.0.as_bytes()).map_err(|_| fmt::Error)
    }
}

impl fmt::Debug for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is no account.
#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq)]
#[error("an account is written as wal1 and 58 letters and digits; check for a typing error")]
pub struct ParseAccountError;

impl FromStr for AccountId {
    type Err = ParseAccountError;

    fn from_str(text: &str) -> Result<Self, ParseAccountError> {
        let parsed =
            CheckedHrpstring::new::<Bech32m>(text.trim()).map_err(|_| ParseAccountError)?;
        if parsed.hrp() != PREFIX {
            return Err(ParseAccountError);
        }
        let bytes: Vec<u8> = parsed.byte_iter().collect();
        Ok(Self(PublicKey::new(bytes.try_into().map_err(|_| ParseAccountError)?)))
    }
}

impl Serialize for AccountId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for AccountId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
        } else {
            PublicKey::deserialize(deserializer).map(Self)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_print_as_bech32m_and_parse_strictly() {
        let account = AccountId::new(PublicKey::new([7; 32]));
        let text = account.to_string();
        assert!(text.starts_with("wal1"));
        assert_eq!(text.len(), 62);
        assert_eq!(text.parse(), Ok(account));
        assert_eq!(text.to_uppercase().parse(), Ok(account));
        let mut typo = text.clone();
        typo.replace_range(10..11, if &text[10..11] == "q" { "p" } else { "q" });
        assert_eq!(typo.parse::<AccountId>(), Err(ParseAccountError));
        let old = bech32::encode::<bech32::Bech32>(PREFIX, &[7; 32]).unwrap();
        assert_eq!(old.parse::<AccountId>(), Err(ParseAccountError), "the old checksum");
        let short = bech32::encode::<Bech32m>(PREFIX, &[7; 31]).unwrap();
        assert_eq!(short.parse::<AccountId>(), Err(ParseAccountError));
        let other = bech32::encode::<Bech32m>(Hrp::parse("nal").unwrap(), &[7; 32]).unwrap();
        assert_eq!(other.parse::<AccountId>(), Err(ParseAccountError));
    }
}
