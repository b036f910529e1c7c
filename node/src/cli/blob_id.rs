//! `floe blob-id`: the id that a file would have, computed without a network.

use std::{fmt, num::NonZeroUsize, path::PathBuf};

use clap::Args;
use floe_protocol::encoding::{self, EncodingConfig};
use serde::Serialize;

use super::{
    exit::{Exit, Failure},
    input::Input,
    session::Session,
};

const AFTER_HELP: &str = "\
The id depends on the bytes and on the network's number of shards, and on nothing else.

Examples:
  floe blob-id holiday.jpg
  floe blob-id --n-shards 64 - < holiday.jpg";

/// Arguments of `floe blob-id`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct BlobIdArgs {
    /// The file; - is standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Shards of the network, in place of the network file
    #[arg(long, value_name = "N")]
    n_shards: Option<u16>,
}

/// Runs `floe blob-id`.
pub(super) async fn run(session: &Session, arguments: BlobIdArgs) -> Result<Exit, Failure> {
    let (config, max_bytes) = match arguments.n_shards {
        Some(n_shards) => {
            let config = EncodingConfig::new(n_shards)?;
            (config, config.max_blob_bytes_possible())
        }
        None => {
            let genesis = session.network().map_err(or_n_shards)?.genesis;
            (EncodingConfig::new(genesis.n_shards)?, genesis.max_blob_bytes)
        }
    };
    encoding::cpu_supported().map_err(|error| Failure::new(Exit::Failed, "cpu", error))?;
    let input = Input::from(arguments.file);
    let blob = input.read(max_bytes, &session.output).await?;
    let threads = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let encoded = tokio::task::spawn_blocking(move || encoding::blob_id(config, blob, threads));
    let encoded = encoded.await.map_err(|error| Failure::new(Exit::Failed, "io", error))?;
    let (id, header) = encoded?;
    let result = IdOfFile {
        blob_id: id.to_string(),
        file: input.name(),
        size_bytes: header.len,
        n_shards: header.n_shards,
    };
    session.output.result(&result, &result.blob_id)?;
    Ok(Exit::Done)
}

fn or_n_shards(failure: Failure) -> Failure {
    match failure.code() {
        "no_network_file" => failure.hint("name the network with --network FILE, or --n-shards N"),
        _ => failure,
    }
}

/// The result.
#[derive(Debug, Serialize)]
struct IdOfFile {
    blob_id: String,
    file: String,
    size_bytes: u64,
    n_shards: u16,
}

impl fmt::Display for IdOfFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}  {}", self.blob_id, self.file)
    }
}
