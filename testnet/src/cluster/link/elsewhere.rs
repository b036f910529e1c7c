//! Systems without network namespaces: there are no links.

use std::{
    io,
    net::Ipv4Addr,
    os::fd::{AsFd, BorrowedFd},
};

use super::LinkError;

/// A device; there is none.
#[derive(Debug)]
pub(super) enum Tun {}

/// A namespace; there is none.
#[derive(Debug)]
pub(super) enum Namespace {}

fn unsupported() -> LinkError {
    LinkError::NotPermitted(io::ErrorKind::Unsupported.into())
}

pub(super) fn isolate() -> Result<(), LinkError> {
    Err(unsupported())
}

pub(super) fn leave() -> Result<(), LinkError> {
    Err(unsupported())
}

pub(super) fn configure(_: Ipv4Addr, _: Ipv4Addr) -> Result<Tun, LinkError> {
    Err(unsupported())
}

impl Namespace {
    pub(super) fn current() -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) const fn enter(&self) -> io::Result<()> {
        match *self {}
    }
}

impl Tun {
    pub(super) const fn read(&self, _: &mut [u8]) -> io::Result<usize> {
        match *self {}
    }

    pub(super) const fn write(&self, _: &[u8]) -> io::Result<usize> {
        match *self {}
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match *self {}
    }
}
