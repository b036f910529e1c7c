//! Sizes as people write and read them: `1024`, `64MiB`, `10MB`, `1.5GiB`, `8MiB/s`.
//!
//! `K`, `M`, `G` and `T` alone or with `iB` are powers of 1024, with `B` powers of 1000. Case does
//! not matter. A fraction that ends within a byte is cut there.

/// A text that is no size.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
#[error("{0:?} is no size: write it like 1024, 64MiB, 10MB or 1.5GiB")]
pub struct ParseSizeError(String);

/// Most digits behind the point of a size.
const FRACTION_DIGITS_MAX: usize = 9;

/// Reads a size in bytes.
///
/// # Errors
/// [`ParseSizeError`] if the text is no size or exceeds 64 bits.
pub fn parse_bytes(text: &str) -> Result<u64, ParseSizeError> {
    parse(text.trim()).ok_or_else(|| ParseSizeError(text.to_owned()))
}

/// Reads a rate in bytes per second, with or without `/s` at its end.
///
/// # Errors
/// [`ParseSizeError`] as [`parse_bytes`].
pub fn parse_bytes_per_second(text: &str) -> Result<u64, ParseSizeError> {
    parse_bytes(text.strip_suffix("/s").unwrap_or(text))
}

fn parse(text: &str) -> Option<u64> {
    let number_end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(number_end);
    let unit: u128 = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "ki" | "kib" => 1 << 10,
        "m" | "mi" | "mib" => 1 << 20,
        "g" | "gi" | "gib" => 1 << 30,
        "t" | "ti" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if number.ends_with('.') || fraction.len() > FRACTION_DIGITS_MAX {
        return None;
    }
    let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let fraction: u128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    // 64 bits times 10^12 stay far below 128 bits.
    let whole = u128::from(whole.parse::<u64>().ok()?);
    u64::try_from(whole * unit + fraction * unit / scale).ok()
}

/// A size for people: in the largest binary unit of which there is at least one, with one digit
/// behind the point unless it is zero, rounded down.
#[must_use]
pub fn human_bytes(bytes: u64) -> String {
    let units = [("TiB", 1_u64 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let Some((name, unit)) = units.into_iter().find(|(_, unit)| bytes >= *unit) else {
        return format!("{bytes} B");
    };
    let (whole, tenth) = (bytes / unit, (bytes % unit) / (unit / 1024) * 10 / 1024);
    if tenth == 0 { format!("{whole} {name}") } else { format!("{whole}.{tenth} {name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_all_usual_spellings() {
        let table = [
            ("0", 0),
            ("1024", 1024),
            ("7B", 7),
            ("64MiB", 64 << 20),
            ("64 mib", 64 << 20),
            ("64M", 64 << 20),
            ("10MB", 10_000_000),
            ("1.5GiB", 3 << 29),
            ("0.1kB", 100),
            ("0.0001K", 0),
            ("2T", 2 << 40),
            ("18446744073709551615", u64::MAX),
        ];
        for (text, bytes) in table {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text:?}");
        }
        assert_eq!(parse_bytes_per_second("8MiB/s"), Ok(8 << 20));
        assert_eq!(parse_bytes_per_second("500k"), Ok(512_000));
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in ["", "MiB", "-1", "1.", ".5", "1.2.3", "1 2", "5XB", "1e3", "16777216TiB", "٣"]
        {
            assert!(parse_bytes(text).is_err(), "{text:?}");
        }
        assert!(parse_bytes("18446744073709551616").is_err());
        assert!(parse_bytes_per_second("8MiB/m").is_err());
    }

    #[test]
    fn sizes_are_written_in_the_fitting_unit() {
        let table = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            ((1 << 20) - 1, "1023.9 KiB"),
            (64 << 20, "64 MiB"),
            (3 << 29, "1.5 GiB"),
            (u64::MAX, "16777215.9 TiB"),
        ];
        for (bytes, text) in table {
            assert_eq!(human_bytes(bytes), text);
        }
    }
}
