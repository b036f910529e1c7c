//! The limits of a mempool, each with the reason for its number.

use crate::ledger::Amount;

/// The limits of a mempool. Bytes are those of the transactions' layout; in memory each takes
/// about 700 more.
#[derive(Clone, Copy, Debug)]
pub struct MempoolConfig {
    /// Bytes of all transactions that are ready: 32 MiB, half a minute of full blocks at one a
    /// second.
    pub bytes_max: usize,
    /// Number of transactions that are ready: 131,072, since small ones cost more memory than
    /// their bytes.
    pub transactions_max: usize,
    /// Bytes of one account's transactions: 512 KiB, half a block.
    pub account_bytes_max: usize,
    /// How far a nonce may lie ahead of the account's, and so how many transactions it may have
    /// here: 64. It also bounds the work that a change to an account's first transaction makes:
    /// all those behind it may have to be ranked anew.
    pub account_transactions_max: usize,
    /// Transactions held for their predecessors: 4,096.
    pub held_max: usize,
    /// Bytes of those: 2 MiB.
    pub held_bytes_max: usize,
    /// Held ones of one account: 16.
    pub account_held_max: usize,
    /// How long they are held: 4 s, a few heartbeats of gossip.
    pub hold_ms: u64,
    /// The lowest fee: 1 FROST. Whoever fills the mempool must own something on the ledger, so
    /// keys made on the spot are no attack.
    pub fee_min: Amount,
    /// Ids of committed transactions that are remembered: 65,536. Older ones are stale by nonce.
    pub remembered_max: usize,
    /// System operations but for challenge certificates: 1,024.
    pub system_max: usize,
    /// Those on one node: 4.
    pub system_per_node_max: usize,
    /// Challenge certificates: 1,024, those of four rounds in a network of 256 members. Only rounds
    /// that are open have any.
    pub system_challenges_max: usize,
}

impl Default for MempoolConfig {
    fn default() -> Self {
        Self {
            bytes_max: 32 << 20,
            transactions_max: 1 << 17,
            account_bytes_max: 512 << 10,
            account_transactions_max: 64,
            held_max: 4_096,
            held_bytes_max: 2 << 20,
            account_held_max: 16,
            hold_ms: 4_000,
            fee_min: Amount::from_frost(1),
            remembered_max: 1 << 16,
            system_max: 1_024,
            system_per_node_max: 4,
            system_challenges_max: 1_024,
        }
    }
}
