//! What commands that change the ledger share: sending a transaction, and its receipt.

use std::{fmt, time::SystemTime};

use floe_protocol::{
    keys::KeyPair,
    ledger::{Amount, Operation, Timestamp},
};
use serde::Serialize;

use super::{
    exit::{Exit, Failure},
    session::Session,
};
use crate::client::{LedgerClient, ledger::Receipt};

/// A committed transaction and what it did.
#[derive(Debug, Serialize)]
pub(super) struct Committed<T> {
    #[serde(flatten)]
    pub(super) what: T,
    pub(super) transaction: String,
    pub(super) height: u64,
    pub(super) time_ms: u64,
    pub(super) fee_frost: Amount,
}

impl<T> Committed<T> {
    pub(super) fn new(what: T, receipt: &Receipt) -> Self {
        Self {
            what,
            transaction: receipt.id.to_string(),
            height: receipt.height().get(),
            time_ms: receipt.time().ms(),
            fee_frost: receipt.fee,
        }
    }
}

impl<T: fmt::Display> fmt::Display for Committed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.what)?;
        let Self { transaction, height, fee_frost, .. } = self;
        write!(f, "transaction {transaction} in block {height}, fee {fee_frost}")
    }
}

/// Has one operation done and prints the receipt.
pub(super) async fn submit<T: Serialize + fmt::Display>(
    session: &Session,
    ledger: &LedgerClient,
    (operation, key): (Operation, &KeyPair),
    what: T,
) -> Result<Exit, Failure> {
    let receipt = ledger.submit(vec![operation], key).await?;
    let result = Committed::new(what, &receipt);
    session.output.result(&result, &result.transaction)?;
    Ok(Exit::Done)
}

/// An amount given as one word or two: `1.5`, `1.5WAL`, `1.5 WAL`, `200 FROST`.
pub(super) fn parse_amount(words: &[String]) -> Result<Amount, Failure> {
    let text = words.join(" ");
    let amount: Amount = text
        .parse()
        .map_err(|error| Failure::usage("bad_amount", format!("{text:?} is no amount: {error}")))?;
    if amount.is_zero() {
        return Err(Failure::usage("bad_amount", "the amount is nothing"));
    }
    Ok(amount)
}

/// A ledger time as people write it.
pub(super) fn human_moment(time: Timestamp) -> String {
    let moment = SystemTime::UNIX_EPOCH.checked_add(std::time::Duration::from_millis(time.ms()));
    // Years of more than four digits are nobody's.
    let in_range = time.ms() < 253_402_300_800_000;
    match moment.filter(|_| in_range) {
        Some(moment) => humantime::format_rfc3339_seconds(moment).to_string(),
        None => time.to_string(),
    }
}

/// The wall clock, to tell ages by.
pub(super) fn age_ms(time: Timestamp) -> u64 {
    crate::service::ledger::wall_clock().ms_since(time)
}

/// By how many milliseconds a time is later than another; below 0 if it is earlier.
pub(super) fn later_by_ms(time: Timestamp, than: Timestamp) -> i64 {
    let ms = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
    ms(time.ms_since(than)).saturating_sub(ms(than.ms_since(time)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_one_word_or_two() {
        let amount = |words: &[&str]| {
            let words: Vec<_> = words.iter().map(ToString::to_string).collect();
            parse_amount(&words).map(Amount::frost).map_err(|failure| failure.code())
        };
        assert_eq!(amount(&["1.5"]).unwrap(), 1_500_000_000);
        assert_eq!(amount(&["1.5", "WAL"]).unwrap(), 1_500_000_000);
        assert_eq!(amount(&["7FROST"]).unwrap(), 7);
        for wrong in [&["0"][..], &["-1"], &["1", "BTC"], &["x"]] {
            assert_eq!(amount(wrong).unwrap_err(), "bad_amount", "{wrong:?}");
        }
    }

    #[test]
    fn moments_are_written_as_people_do() {
        assert_eq!(human_moment(Timestamp::from_ms(1_700_000_000_123)), "2023-11-14T22:13:20Z");
        assert_eq!(human_moment(Timestamp::from_ms(u64::MAX)), format!("{} ms", u64::MAX));
    }
}
