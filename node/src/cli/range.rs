//! Byte ranges as HTTP writes them: `A-B`, `A-`, `-N`.

use std::{ops::Range, str::FromStr};

use super::size::parse_bytes;

/// A range of bytes of a blob whose length may not be known yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ByteRange {
    /// From the first to the last byte, both included.
    Bounded { first: u64, last: u64 },
    /// From this byte to the end.
    From(u64),
    /// The last so many bytes.
    Last(u64),
}

/// A text that is no range.
#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq)]
pub(super) enum ParseRangeError {
    #[error("write a range as FIRST-LAST, FIRST- or -COUNT, in bytes")]
    Form,
    #[error("the range ends before it starts")]
    Backwards,
}

impl FromStr for ByteRange {
    type Err = ParseRangeError;

    fn from_str(text: &str) -> Result<Self, ParseRangeError> {
        let bytes = |text: &str| parse_bytes(text).map_err(|_| ParseRangeError::Form);
        let (first, last) = text.split_once('-').ok_or(ParseRangeError::Form)?;
        match (first, last) {
            ("", count) => Ok(Self::Last(bytes(count)?)),
            (first, "") => Ok(Self::From(bytes(first)?)),
            (first, last) => {
                let (first, last) = (bytes(first)?, bytes(last)?);
                if first > last {
                    return Err(ParseRangeError::Backwards);
                }
                Ok(Self::Bounded { first, last })
            }
        }
    }
}

impl ByteRange {
    /// Whether the blob's length must be known to say where it starts.
    pub(super) const fn needs_length(self) -> bool {
        matches!(self, Self::Last(_))
    }

    /// The bytes meant, of a blob of `len`.
    pub(super) const fn resolve(self, len: u64) -> Range<u64> {
        match self {
            Self::Bounded { first, last } => first..last.saturating_add(1),
            Self::From(first) => first..u64::MAX,
            Self::Last(count) => len.saturating_sub(count)..len,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_in_http() {
        let table = [
            ("0-499", Ok(0..500)),
            ("500-", Ok(500..u64::MAX)),
            ("-100", Ok(900..1000)),
            ("-2000", Ok(0..1000)),
            ("5-5", Ok(5..6)),
            ("1KiB-2KiB", Ok(1024..2049)),
            ("6-5", Err(ParseRangeError::Backwards)),
            ("-", Err(ParseRangeError::Form)),
            ("5", Err(ParseRangeError::Form)),
            ("a-b", Err(ParseRangeError::Form)),
            ("1-2-3", Err(ParseRangeError::Form)),
            ("", Err(ParseRangeError::Form)),
        ];
        for (text, expected) in table {
            let range = text.parse::<ByteRange>().map(|range| range.resolve(1000));
            assert_eq!(range, expected, "{text:?}");
        }
    }
}
