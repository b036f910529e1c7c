//! Amounts of WAL, counted in FROST: 1 WAL = 10^9 FROST.
//!
//! Invariant: arithmetic is checked; there is no operator that could wrap.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Decimal places of a WAL.
const DECIMALS: usize = 9;

/// An amount in FROST. Printed in WAL (`1.5 WAL`), in JSON a decimal string of FROST, since
/// numbers of that size lose digits in many readers.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    borsh::BorshSerialize,
    borsh::BorshDeserialize,
)]
pub struct Amount(u128);

impl Amount {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// FROST in one WAL.
    pub const FROST_PER_WAL: u128 = 1_000_000_000;

    /// `frost` FROST.
    #[must_use]
    pub const fn from_frost(frost: u128) -> Self {
        Self(frost)
    }

    /// `wal` WAL.
    #[must_use]
    pub const fn from_wal(wal: u64) -> Self {
        // It never saturates: 2^64 * 10^9 is below 2^94.
        Self((wal as u128).saturating_mul(Self::FROST_PER_WAL))
    }

    /// The amount in FROST.
    #[must_use]
    pub const fn frost(self) -> u128 {
        self.0
    }

    /// Whether it is nothing.
    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// The sum, unless it exceeds what an amount can be.
    #[must_use]
    pub const fn checked_add(self, other: Self) -> Option<Self> {
        match self.0.checked_add(other.0) {
            Some(sum) => Some(Self(sum)),
            None => None,
        }
    }

    /// The difference, unless it is negative.
    #[must_use]
    pub const fn checked_sub(self, other: Self) -> Option<Self> {
        match self.0.checked_sub(other.0) {
            Some(difference) => Some(Self(difference)),
            None => None,
        }
    }

    /// The product, unless it exceeds what an amount can be.
    #[must_use]
    pub const fn checked_mul(self, factor: u128) -> Option<Self> {
        match self.0.checked_mul(factor) {
            Some(product) => Some(Self(product)),
            None => None,
        }
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (wal, frost) = (self.0 / Self::FROST_PER_WAL, self.0 % Self::FROST_PER_WAL);
        if frost == 0 {
            return write!(f, "{wal} WAL");
        }
        let decimals = format!("{frost:09}");
        write!(f, "{wal}.{} WAL", decimals.trim_end_matches('0'))
    }
}

/// A text that is no amount.
#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq)]
#[error("an amount is a number of WAL with up to 9 decimals (1.5 WAL), or of FROST (200 FROST)")]
pub struct ParseAmountError;

impl FromStr for Amount {
    type Err = ParseAmountError;

    fn from_str(text: &str) -> Result<Self, ParseAmountError> {
        let text = text.trim();
        let upper = text.to_ascii_uppercase();
        if let Some(frost) = upper.strip_suffix("FROST") {
            return digits(frost.trim_end()).map(Self);
        }
        let wal = upper.strip_suffix("WAL").unwrap_or(&upper).trim_end();
        let (whole, fraction) = wal.split_once('.').unwrap_or((wal, "0"));
        if fraction.is_empty() || fraction.len() > DECIMALS {
            return Err(ParseAmountError);
        }
        let fraction = digits(&format!("{fraction:0<DECIMALS$}"))?;
        let whole = digits(whole)?.checked_mul(Self::FROST_PER_WAL);
        let frost = whole.and_then(|whole| whole.checked_add(fraction));
        frost.map(Self).ok_or(ParseAmountError)
    }
}

fn digits(text: &str) -> Result<u128, ParseAmountError> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(ParseAmountError);
    }
    text.parse().map_err(|_| ParseAmountError)
}

impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(&self.0)
        } else {
            serializer.serialize_bytes(&self.0.to_le_bytes())
        }
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let text = String::deserialize(deserializer)?;
            digits(&text).map(Self).map_err(D::Error::custom)
        } else {
            serde_bytes::deserialize(deserializer).map(|bytes| Self(u128::from_le_bytes(bytes)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_print_and_parse_in_wal() {
        for (text, frost, printed) in [
            ("1.5 WAL", 1_500_000_000, "1.5 WAL"),
            ("1.5", 1_500_000_000, "1.5 WAL"),
            ("20wal", 20_000_000_000, "20 WAL"),
            ("0.000000001", 1, "0.000000001 WAL"),
            ("7 FROST", 7, "0.000000007 WAL"),
            ("0", 0, "0 WAL"),
        ] {
            assert_eq!(text.parse(), Ok(Amount(frost)), "{text}");
            assert_eq!(Amount(frost).to_string(), printed);
            assert_eq!(printed.parse(), Ok(Amount(frost)));
        }
        for text in ["", "WAL", "-1", "+1", "1.", ".5", "1.0000000001", "1e3", "1_000", "1.5 FROST"]
        {
            assert_eq!(text.parse::<Amount>(), Err(ParseAmountError), "{text:?}");
        }
        let largest = Amount(u128::MAX);
        assert_eq!(largest.to_string().parse(), Ok(largest));
        assert!("340282366920938463463374607432 WAL".parse::<Amount>().is_err());
    }
}
