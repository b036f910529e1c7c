//! Hand-over certificates: what verifies, what does not, the bytes; how their signatures get
//! together; and light clients that follow by them.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails where it can't go on")]

mod certificates;
mod collection;
#[path = "../golden/mod.rs"]
mod golden;
mod light;
#[path = "../signed/mod.rs"]
mod signed;

use floe_protocol::{
    certificate::CertificateError,
    handover::{HandoverCertificate, HandoverFact},
    hash::Hash,
    index::{Epoch, Height},
    ledger::{Block, BlockHash, Header},
    light::{CertifiedHeader, FinalHeader, Finality},
    test_support::Chain,
};

fn fact() -> HandoverFact {
    HandoverFact {
        epoch: Epoch::new(0),
        height: Height::new(9),
        last: BlockHash::new(Hash::new([3; 32])),
    }
}

/// The last header of an epoch with its commit certificate.
fn certified(chain: &Chain, epoch: u64) -> CertifiedHeader {
    let of = |(block, _): &&(Block, _)| block.header.epoch.get() == epoch;
    let (block, certificate) = chain.blocks.iter().rfind(of).unwrap();
    CertifiedHeader { header: block.header, certificate: certificate.clone() }
}

fn certify(
    chain: &Chain,
    header: &Header,
    signers: usize,
) -> Result<FinalHeader, CertificateError> {
    let committee = chain.state.committee().in_epoch(header.epoch);
    let fact = HandoverFact::new(header);
    let signatures = signed::sign(&committee, &chain.id(), &fact).into_iter().enumerate();
    let signatures: Vec<_> = signatures.take(signers).collect();
    let certificate = HandoverCertificate::new(&committee, fact, &signatures)?;
    Ok(FinalHeader { header: *header, finality: Finality::Handover(certificate) })
}

/// The last header of an epoch with a hand-over certificate, and the next committee. The members
/// of these chains do not change.
fn by_handover(chain: &Chain, epoch: u64) -> (FinalHeader, Vec<u8>) {
    let last = certify(chain, &certified(chain, epoch).header, 4).unwrap();
    (last, chain.state.committee().in_epoch(Epoch::new(epoch + 1)).to_bytes())
}
