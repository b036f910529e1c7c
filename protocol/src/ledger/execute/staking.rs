//! The registry of storage nodes, stakes, and what wrong costs.
//!
//! Stake made before an epoch's selection counts in it and is in the node's pool from the next epoch
//! on; stake made after it, one epoch later. Until then it earns nothing and backs nothing, so it is
//! not slashed either. Unstaking acts at once: what leaves the pool earns nothing more, and stays
//! slashable until it is paid: for the unbonding time after the last epoch that it backs. That is
//! the next one if its committee is selected already. A closed pool takes no stake; what was on its
//! way in is given back by the next withdrawal.

use super::{BLS_IDENTITY, Executor};
use crate::{
    committee::Committee,
    index::{Epoch, Height},
    keys::NodeId,
    ledger::{
        AccountId, Amount, Event, IndexEntry, Key, Node, NodeIdentity, NodeSettings,
        OperationError, Pool, Rate, Record, SlashReason, Stake, Unbonding, error::Failure,
        pool::add_incoming,
    },
    vote::Equivocation,
};

/// Unbondings that one account may have pending with one node.
const MAX_UNBONDINGS: usize = 32;

impl Executor<'_> {
    pub(super) fn register_node(
        &mut self,
        operator: AccountId,
        identity: &NodeIdentity,
        settings: &NodeSettings,
    ) -> Result<(), Failure> {
        let node = identity.node;
        if self.overlay.has(&Key::Node(node))?
            || self.overlay.has(&Key::BlsKey(identity.bls_key))?
        {
            return Err(OperationError::KeyTaken.into());
        }
        self.spend_bls(BLS_IDENTITY)?;
        if !identity.verify(self.chain, &operator) {
            return Err(OperationError::Identity.into());
        }
        self.put_node(node, new_node(operator, identity.bls_key, settings.clone()))?;
        self.overlay.put(Key::BlsKey(identity.bls_key), Record::BlsKey(node))?;
        self.overlay.add_index(IndexEntry::Registered(node));
        self.events.push(Event::NodeRegistered { node });
        Ok(())
    }

    pub(super) fn update_node(
        &mut self,
        sender: AccountId,
        id: NodeId,
        settings: &NodeSettings,
    ) -> Result<(), Failure> {
        let mut node = self.operated(sender, &id)?;
        node.settings = settings.clone();
        self.put_node(id, node)?;
        self.events.push(Event::NodeUpdated { node: id });
        Ok(())
    }

    pub(super) fn unjail(&mut self, sender: AccountId, id: NodeId) -> Result<(), Failure> {
        let mut node = self.operated(sender, &id)?;
        let term = u64::from(self.parameters.ledger.jail_epochs);
        let over = node.jailed.is_some_and(|since| self.epoch() >= since.plus(term));
        if !over {
            return Err(OperationError::Jail.into());
        }
        node.jailed = None;
        node.bad_epochs = 0;
        self.put_node(id, node)?;
        self.events.push(Event::NodeUnjailed { node: id });
        Ok(())
    }

    pub(super) fn stake(
        &mut self,
        account: AccountId,
        id: NodeId,
        amount: Amount,
    ) -> Result<(), Failure> {
        let mut node = self.registered(&id)?;
        if node.closed {
            return Err(OperationError::PoolClosed.into());
        }
        self.debit(&account, amount)?;
        // What it will be worth is known when it enters; now it must be worth something.
        let worth = node.pool.clone().mint(amount).ok_or(OperationError::Overflow)?;
        if worth == 0 {
            return Err(OperationError::Shares.into());
        }
        let mut stake = self.staked(&account, &id)?;
        let selected = self.overlay.summary()?.selections > 0;
        let active = self.epoch().plus(if selected { 2 } else { 1 });
        for list in [&mut node.incoming, &mut stake.incoming] {
            add_incoming(list, active, amount).ok_or(OperationError::Overflow)?;
        }
        self.put_node(id, node)?;
        self.put_stake(account, id, stake)?;
        self.events.push(Event::Staked { account, node: id, amount, active });
        Ok(())
    }

    pub(super) fn unstake(
        &mut self,
        account: AccountId,
        id: NodeId,
        shares: u128,
    ) -> Result<(), Failure> {
        let mut node = self.registered(&id)?;
        let mut stake = self.staked(&account, &id)?;
        stake.shares = stake.shares.checked_sub(shares).ok_or(OperationError::Shares)?;
        let amount = node.pool.redeem(shares).ok_or(OperationError::Overflow)?;
        let unbonding = node.unbonding.mint(amount).ok_or(OperationError::Overflow)?;
        if amount.is_zero() || unbonding == 0 {
            return Err(OperationError::Shares.into());
        }
        // The running epoch does not count: it may be nearly over. Nor does the next once its
        // committee is selected: the stake backs it.
        let backed = if self.overlay.summary()?.selections > 0 { 2 } else { 1 };
        let epochs = u64::from(self.parameters.ledger.unbonding_epochs);
        let until = self.epoch().plus(backed).plus(epochs);
        let pending = stake.unbonding.len();
        match stake.unbonding.last_mut().filter(|last| last.until == until) {
            Some(last) => {
                let shares = last.shares.checked_add(unbonding);
                last.shares = shares.ok_or(OperationError::Overflow)?;
            }
            None if pending >= MAX_UNBONDINGS => {
                return Err(OperationError::TooManyUnbondings.into());
            }
            None => stake.unbonding.push(Unbonding { shares: unbonding, until }),
        }
        self.put_node(id, node)?;
        self.put_stake(account, id, stake)?;
        self.events.push(Event::Unstaked { account, node: id, amount, until });
        Ok(())
    }

    pub(super) fn withdraw(&mut self, account: AccountId, id: NodeId) -> Result<(), Failure> {
        let mut node = self.registered(&id)?;
        let mut stake = self.staked(&account, &id)?;
        let epoch = self.epoch();
        let due = stake.unbonding.iter().take_while(|unbonding| unbonding.until <= epoch).count();
        let returned = if node.closed { std::mem::take(&mut stake.incoming) } else { Vec::new() };
        if due == 0 && returned.is_empty() {
            return Err(OperationError::NothingUnbonded.into());
        }
        let mut amount = Amount::ZERO;
        for unbonding in stake.unbonding.drain(..due) {
            let worth = node.unbonding.redeem(unbonding.shares);
            let sum = worth.and_then(|worth| amount.checked_add(worth));
            amount = sum.ok_or(OperationError::Overflow)?;
        }
        for own in returned {
            let all = node.incoming.iter_mut().find(|incoming| incoming.epoch == own.epoch);
            let all = all.ok_or(OperationError::Overflow)?;
            all.amount = all.amount.checked_sub(own.amount).ok_or(OperationError::Overflow)?;
            amount = amount.checked_add(own.amount).ok_or(OperationError::Overflow)?;
        }
        node.incoming.retain(|incoming| !incoming.amount.is_zero());
        self.credit(&account, amount)?;
        self.put_node(id, node)?;
        self.put_stake(account, id, stake)?;
        self.events.push(Event::Withdrawn { account, node: id, amount });
        Ok(())
    }

    pub(super) fn report_equivocation(
        &mut self,
        equivocation: &Equivocation,
    ) -> Result<(), Failure> {
        let (offender, height) = (equivocation.offender(), equivocation.first.vote.height);
        let Some(epoch) = self.punishable_epoch(&offender, height)? else {
            return Err(OperationError::NotPunishable.into());
        };
        if self.overlay.has(&Key::Offence(offender, epoch))? {
            return Err(OperationError::Punished.into());
        }
        equivocation.verify(self.chain)?;
        self.overlay.put(Key::Offence(offender, epoch), Record::Offence(height))?;

        let mut node = self.registered(&offender)?;
        let bps = self.parameters.ledger.equivocation_slash_bps;
        self.slash(&offender, &mut node, bps, SlashReason::Equivocation)?;
        self.jail(&offender, &mut node);
        self.put_node(offender, node)
    }

    /// Burns a part, in ten-thousandths, of a node's pool and of what is on its way out; how much.
    /// The caller writes the node.
    pub(super) fn slash(
        &mut self,
        id: &NodeId,
        node: &mut Node,
        bps: u16,
        reason: SlashReason,
    ) -> Result<Amount, Failure> {
        let staked = node.pool.slash(bps).ok_or(OperationError::Overflow)?;
        let unbonding = node.unbonding.slash(bps).ok_or(OperationError::Overflow)?;
        let burned = staked.checked_add(unbonding).ok_or(OperationError::Overflow)?;
        node.closed |= node.pool.stake.is_zero() && node.pool.shares > 0;
        if !burned.is_zero() {
            self.burn(burned)?;
            self.events.push(Event::NodeSlashed { node: *id, burned, reason });
        }
        Ok(burned)
    }

    /// Jails a node. The caller writes it.
    pub(super) fn jail(&mut self, id: &NodeId, node: &mut Node) {
        node.jailed = Some(self.epoch());
        self.events.push(Event::NodeJailed { node: *id });
    }

    /// The epoch of `height`, if it is recent enough to be punished and the node voted in it.
    fn punishable_epoch(
        &mut self,
        offender: &NodeId,
        height: Height,
    ) -> Result<Option<Epoch>, Failure> {
        if height > self.height {
            return Ok(None);
        }
        let oldest = self.oldest_kept_epoch();
        for epoch in (oldest.get()..=self.epoch().get()).rev().map(Epoch::new) {
            let begun = self.overlay.epoch(epoch)?.first_height;
            if begun.is_some_and(|first| first <= height) {
                let committee = self.overlay.committee(epoch)?;
                let committee = committee.and_then(|bytes| Committee::from_bytes(&bytes).ok());
                let voted = |committee: &Committee| {
                    committee.member(offender).is_some_and(|member| member.weight() > 0)
                };
                return Ok(committee.filter(voted).map(|_| epoch));
            }
        }
        Ok(None)
    }

    /// The oldest epoch whose committee is still known: stake that left it can still be slashed.
    pub(super) fn oldest_kept_epoch(&self) -> Epoch {
        let kept = u64::from(self.parameters.ledger.unbonding_epochs).saturating_add(1);
        Epoch::new(self.epoch().get().saturating_sub(kept))
    }

    /// A node, with the stake in its pool that is due by now.
    pub(super) fn registered(&mut self, id: &NodeId) -> Result<Node, Failure> {
        let mut node = *self.overlay.node(id)?.ok_or(OperationError::NoNode)?;
        self.enter(id, &mut node, self.epoch())?;
        Ok(node)
    }

    /// Lets stake enter the node's pool that is in it from `epoch` on.
    pub(super) fn enter(
        &mut self,
        id: &NodeId,
        node: &mut Node,
        epoch: Epoch,
    ) -> Result<(), Failure> {
        let (rates, closed) = (node.enter(epoch), node.closed);
        for (epoch, rate) in &rates {
            self.overlay.put(Key::Rate(*id, *epoch), Record::Rate(*rate))?;
        }
        if closed || !rates.is_empty() {
            self.put_node(*id, node.clone())?;
        }
        Ok(())
    }

    /// The stake of an account with a [`Self::registered`] node, with the shares of what has
    /// entered the pool. The caller writes it.
    fn staked(&mut self, account: &AccountId, id: &NodeId) -> Result<Stake, Failure> {
        let mut stake = self.overlay.stake(account, id)?.unwrap_or_default();
        for incoming in std::mem::take(&mut stake.incoming) {
            let Some(mut rate) = self.overlay.rate(id, incoming.epoch)? else {
                stake.incoming.push(incoming);
                continue;
            };
            let shares = rate.take(incoming.amount).ok_or(OperationError::Overflow)?;
            stake.shares = stake.shares.checked_add(shares).ok_or(OperationError::Overflow)?;
            let rest: Option<Rate> = (!rate.amount.is_zero()).then_some(rate);
            self.overlay.put(Key::Rate(*id, incoming.epoch), rest.map(Record::Rate))?;
        }
        Ok(stake)
    }

    fn operated(&mut self, sender: AccountId, id: &NodeId) -> Result<Node, Failure> {
        let node = self.registered(id)?;
        if node.operator != sender {
            return Err(OperationError::NotOwner { owner: node.operator }.into());
        }
        Ok(node)
    }

    pub(super) fn put_node(&mut self, id: NodeId, node: Node) -> Result<(), Failure> {
        Ok(self.overlay.put(Key::Node(id), Record::Node(Box::new(node)))?)
    }

    fn put_stake(&mut self, account: AccountId, node: NodeId, stake: Stake) -> Result<(), Failure> {
        let Stake { shares, incoming, unbonding } = &stake;
        let keep = *shares > 0 || !incoming.is_empty() || !unbonding.is_empty();
        let entry = IndexEntry::Staked(account, node);
        if keep {
            self.overlay.add_index(entry);
        } else {
            self.overlay.remove_index(entry);
        }
        let record = keep.then_some(Record::Stake(stake));
        Ok(self.overlay.put(Key::Stake(account, node), record)?)
    }
}

/// A node that has just entered the registry.
pub(in crate::ledger) const fn new_node(
    operator: AccountId,
    bls_key: crate::keys::BlsPublicKey,
    settings: NodeSettings,
) -> Node {
    let empty = Pool { stake: Amount::ZERO, shares: 0 };
    Node {
        operator,
        bls_key,
        settings,
        pool: empty,
        incoming: Vec::new(),
        unbonding: empty,
        closed: false,
        jailed: None,
        bad_epochs: 0,
        ready: None,
        ready_stake: Amount::ZERO,
        settled: None,
    }
}
