//! Headers from gossip: which of them are passed on, and what they tell about blocks that this node
//! lacks.
//!
//! They are passed on only if a quorum signed them, one of each height and none below another: light
//! peers live on them. Invariant: every header gets its verdict, however busy the rest of block sync
//! is; what it tells may be dropped then, for it asks again by itself.

use floe_protocol::{
    index::Height,
    keys::NodeId,
    ledger::State,
    light::CertifiedHeader,
    message::{LedgerAnnouncement, LedgerTopic},
};
use tokio::{sync::mpsc, task::spawn_blocking};

use crate::{network::GossipMessage, service::ledger::Ledger};

/// What a header from gossip says.
#[derive(Clone, Copy, Debug)]
pub(super) enum News {
    /// A quorum has committed this height.
    Committed { height: Height, from: NodeId },
    /// Somebody says that there is more, by a committee that is not known here.
    Rumour,
}

/// Gives every header its verdict; ends when the network does.
pub(super) async fn judge_headers(
    ledger: &Ledger,
    mut headers: mpsc::Receiver<GossipMessage>,
    news: mpsc::Sender<News>,
) {
    let mut relay = Relay { newest: ledger.state().borrow().tip().height };
    while let Some(GossipMessage { from, bytes, verdict, .. }) = headers.recv().await {
        let decoded = LedgerAnnouncement::decode(LedgerTopic::Headers, &bytes);
        let Ok(LedgerAnnouncement::NewHeader(certified)) = decoded else {
            verdict.reject();
            continue;
        };
        let height = certified.header.height;
        if !relay.wants(height) {
            verdict.ignore();
            continue;
        }
        let state = ledger.state().borrow().clone();
        let tip = state.tip().height;
        let told = match spawn_blocking(move || judge(&state, &certified)).await {
            Ok(Some(true)) => {
                relay.newest = height;
                verdict.accept();
                if height > tip {
                    ledger.proven(height);
                }
                News::Committed { height, from }
            }
            Ok(Some(false)) => {
                verdict.reject();
                continue;
            }
            Ok(None) => {
                verdict.ignore();
                News::Rumour
            }
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => return,
        };
        if height > tip {
            // If the other half is busy, it is fetching, and asks again afterwards.
            let _ = news.try_send(told);
        }
    }
}

/// Which headers are passed on: a valid one that is old, or has other signatures, would go around
/// for ever.
#[derive(Debug)]
struct Relay {
    /// The highest that was passed on, or that was committed before this node started.
    newest: Height,
}

impl Relay {
    fn wants(&self, height: Height) -> bool {
        height > self.newest
    }
}

/// Whether a quorum signed the header; none if its committee is not known here.
pub(super) fn judge(state: &State, certified: &CertifiedHeader) -> Option<bool> {
    let committees = [state.committee(), state.previous_committee()];
    let epoch = certified.header.epoch;
    let committee = committees.into_iter().find(|committee| committee.epoch() == epoch)?;
    Some(certified.verify(committee, state.chain()).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_header_of_a_height_is_passed_on_and_no_older_one() {
        let mut relay = Relay { newest: Height::new(5) };
        assert!(!relay.wants(Height::new(5)), "committed before the node started");
        assert!(relay.wants(Height::new(7)));
        relay.newest = Height::new(7);
        assert!(!relay.wants(Height::new(7)), "the same with other signatures");
        assert!(!relay.wants(Height::new(6)), "older");
        assert!(relay.wants(Height::new(8)));
    }
}
