//! `floe read`: reads a blob, whole or in part, to a file or to standard output.

use std::{fmt, num::NonZeroUsize, path::PathBuf};

use bytes::Bytes;
use clap::Args;
use floe_protocol::{blob::BlobId, encoding, light::Fitness};
use serde::Serialize;

use super::{
    exit::{Exit, Failure},
    out_file::OutFile,
    output::Output,
    progress::Progress,
    range::ByteRange,
    session::Session,
    size::human_bytes,
};
use crate::{
    Client,
    client::{BlobReader, BlobStatus, ReadOptions},
};

const AFTER_HELP: &str = "\
Every byte is verified against the blob id before it is written. With -o the file appears whole or
not at all. Without it the blob goes to standard output: then --json prints its result on standard
error, and so too an error that comes when bytes of the blob have been written.

--strict encodes the blob again and compares the id: if that succeeds, every later read of it gives
the same bytes. It holds all output back until then, in memory.

Examples:
  floe read ID -o holiday.jpg
  floe read ID | tar x
  floe read ID --range 0-499      the first 500 bytes: first and last are included
  floe read ID --range 1MiB-      from there to the end
  floe read ID --range=-500       the last 500 bytes";

/// Arguments of `floe read`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct ReadArgs {
    /// The blob
    #[arg(value_name = "ID", allow_hyphen_values = true)]
    id: String,
    /// Write to this file
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Read these bytes only
    #[arg(long, value_name = "A-B|A-|-N", allow_hyphen_values = true)]
    range: Option<ByteRange>,
    /// Check that the whole encoding is consistent, too
    #[arg(long, conflicts_with = "range")]
    strict: bool,
    /// Replace the file if it exists
    #[arg(long, requires = "output")]
    force: bool,
}

impl ReadArgs {
    /// Whether the blob goes to stdout.
    pub(super) const fn to_stdout(&self) -> bool {
        self.output.is_none()
    }
}

/// Runs `floe read`.
pub(super) async fn run(session: &Session, arguments: ReadArgs) -> Result<Exit, Failure> {
    let blob = parse_id(&arguments.id)?;
    let network = session.network()?;
    let sink = match &arguments.output {
        None => Sink::Stdout(&session.output),
        Some(path) => Sink::File(Box::new(OutFile::create(path, arguments.force)?)),
    };
    let client = session.connect(network).await?;
    let range = match arguments.range {
        None => None,
        Some(range) if range.needs_length() => {
            Some(range.resolve(client.blob_status(blob).await?.header().len))
        }
        // No length is needed to resolve the others.
        Some(range) => Some(range.resolve(0)),
    };
    let reader = client.read(blob, ReadOptions { range }).await?;
    warn_if_old(&session.output, reader.status());
    let result = ReadBlob {
        blob_id: blob.to_string(),
        file: arguments.output.as_ref().map(|path| path.display().to_string()),
        blob_bytes: reader.blob_bytes(),
        range_start: reader.range().start,
        bytes: reader.range().end - reader.range().start,
        strict: arguments.strict,
    };
    let mut sink = sink;
    if arguments.strict {
        let bytes =
            read_strictly(session, &client, blob, reader, arguments.output.is_some()).await?;
        sink.write(bytes).await?;
    } else {
        copy(session, &result, reader, &mut sink).await?;
    }
    sink.finish().await?;
    client.shutdown().await;
    if arguments.output.is_some() || session.output.is_json() {
        session.output.result(&result, &result.blob_id)?;
    }
    Ok(Exit::Done)
}

/// Says so when what is known of a blob may no longer be so.
pub(super) fn warn_if_old(output: &Output, status: &BlobStatus) {
    if let Fitness::Old(unfit) = status.fitness {
        output.warning(format_args!("{unfit}: whether the blob is still stored is not known"));
    }
}

/// Reads a blob id as the user gave it.
pub(super) fn parse_id(text: &str) -> Result<BlobId, Failure> {
    text.parse().map_err(|error| {
        Failure::usage("bad_blob_id", format!("{text:?} is no blob id: {error}"))
            .hint("`floe store` prints a blob's id; `floe blob-id FILE` computes it from the file")
    })
}

/// Where the bytes go.
enum Sink<'a> {
    Stdout(&'a Output),
    File(Box<OutFile>),
}

impl Sink<'_> {
    async fn write(&mut self, bytes: Bytes) -> Result<(), Failure> {
        match self {
            Self::Stdout(output) => output.blob_bytes(bytes).await,
            Self::File(file) => file.write(&bytes).await,
        }
    }

    async fn finish(self) -> Result<(), Failure> {
        match self {
            Self::Stdout(_) => Ok(()),
            Self::File(file) => file.finish().await,
        }
    }
}

/// Hands bytes on as they come.
async fn copy(
    session: &Session,
    result: &ReadBlob,
    mut reader: BlobReader,
    sink: &mut Sink<'_>,
) -> Result<(), Failure> {
    let mut progress = Progress::new(session, "blob", result.file.is_none());
    let mut done = 0;
    while let Some(bytes) = reader.next().await {
        let bytes = bytes?;
        done += bytes.len() as u64;
        sink.write(bytes).await?;
        progress.show("reading", done, result.bytes);
    }
    Ok(())
}

/// Reads the whole blob and encodes it again.
async fn read_strictly(
    session: &Session,
    client: &Client,
    blob: BlobId,
    mut reader: BlobReader,
    to_file: bool,
) -> Result<Bytes, Failure> {
    let total = reader.blob_bytes();
    let mut progress = Progress::new(session, "blob", !to_file);
    let mut bytes = Vec::with_capacity(usize::try_from(total).unwrap_or(0));
    while let Some(row) = reader.next().await {
        bytes.extend_from_slice(&row?);
        progress.show("reading", bytes.len() as u64, total);
    }
    progress.show("checking", total, total);
    let (config, bytes) = (client.encoding(), Bytes::from(bytes));
    let copy = bytes.clone();
    let threads = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let encoded = tokio::task::spawn_blocking(move || encoding::blob_id(config, copy, threads));
    let encoded = encoded.await.map_err(|error| Failure::new(Exit::Failed, "io", error))?;
    let (id, _) = encoded?;
    if id == blob {
        return Ok(bytes);
    }
    let message = format!("the bytes of blob {blob} encode to another id, {id}");
    Err(Failure::new(Exit::Verification, "inconsistent", message)
        .hint("its writer encoded it inconsistently: have it stored again from the original"))
}

/// The result of reading.
#[derive(Debug, Serialize)]
struct ReadBlob {
    blob_id: String,
    file: Option<String>,
    blob_bytes: u64,
    range_start: u64,
    bytes: u64,
    strict: bool,
}

impl fmt::Display for ReadBlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", human_bytes(self.bytes))?;
        if self.bytes != self.blob_bytes {
            write!(f, " of {} from byte {}", human_bytes(self.blob_bytes), self.range_start)?;
        }
        if let Some(file) = &self.file {
            write!(f, " written to {file}")?;
        }
        if self.strict { write!(f, ", encoding consistent") } else { Ok(()) }
    }
}
