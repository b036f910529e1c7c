//! What a client does with a blob: [`StorePlan`] says what a store has to pay for, [`Upload`] brings
//! the blob to a quorum, [`Download`] brings it back.
//!
//! All are pure: the driver tells them what happened and when, and does what they answer. They
//! decide who is asked for what, how much is in flight, when a node is late or given up, and when
//! the work is done or has failed. They never see a byte of the blob.
//!
//! Invariants: every limit is a field of a config; what is asked stays within it; each step ends
//! in finitely many asks, since attempts per node are bounded. Time is milliseconds of any
//! monotonic clock.

mod download;
mod store_plan;
mod upload;

pub use self::{
    download::{
        Download, DownloadConfig, DownloadFailure, DownloadInput, DownloadOutput, SliverFault,
        Sources,
    },
    store_plan::{StorePlan, StorePlanError, Wanted},
    upload::{Ask, MemberFailure, Upload, UploadConfig, UploadFailure, UploadInput, UploadOutput},
};
