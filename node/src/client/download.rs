//! Reading a blob: drives [`Download`], verifies what comes, streams rows out in order.
//!
//! A row is handed out only after it was checked against its own pair proof, or, where it had to
//! be decoded, against the digest table that the blob id commits to. A read holds the rows that it
//! has received, at most about one blob: any of them may be needed to decode another. A slow reader
//! slows nothing but itself. Shards may move meanwhile: whoever may have a row is asked, and where
//! nobody has enough of them, the ledger is asked anew who holds them.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
    time::Duration,
};

use bytes::Bytes;
use floe_protocol::{
    blob::{BlobId, PairProof},
    encoding::{self, Axis, BlobLayout, DecodeError, DigestTable, TableError},
    index::{Epoch, SliverIndex, SliverPairIndex},
    keys::NodeId,
    ledger::BlobState,
    message::{Refusal, Request, Response},
    transfer::{Download, DownloadFailure, DownloadInput, DownloadOutput, SliverFault, Sources},
};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep_until},
};

use super::{BlobStatus, Client, ReadError, blocking, elapsed_ms, joined, threads, upload::short};

/// Rows that may wait for a slow reader.
const ROWS_AHEAD: usize = 4;
/// How often a read goes on with other holders when those that it knew do not have enough.
const RESUMES_MAX: u32 = 4;

/// What to read and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadOptions {
    /// Bytes to read, cut at the end of the blob; all of them if none.
    pub range: Option<Range<u64>>,
}

/// A blob as it comes in.
#[derive(Debug)]
pub struct BlobReader {
    status: BlobStatus,
    range: Range<u64>,
    /// Bytes that are still to come.
    left: u64,
    rows: mpsc::Receiver<Result<Bytes, ReadError>>,
}

impl BlobReader {
    /// What the ledger proves of the blob, and how old that proof is.
    #[must_use]
    pub const fn status(&self) -> &BlobStatus {
        &self.status
    }

    /// Length of the whole blob in bytes.
    #[must_use]
    pub const fn blob_bytes(&self) -> u64 {
        self.status.header().len
    }

    /// The bytes that will come.
    #[must_use]
    pub const fn range(&self) -> &Range<u64> {
        &self.range
    }

    /// The next verified bytes; none at the end. After an error nothing more comes.
    pub async fn next(&mut self) -> Option<Result<Bytes, ReadError>> {
        match self.rows.recv().await {
            Some(Ok(bytes)) => {
                self.left = self.left.saturating_sub(bytes.len() as u64);
                Some(Ok(bytes))
            }
            Some(Err(error)) => {
                self.left = 0;
                Some(Err(error))
            }
            // A read that was cut off must not pass for the blob.
            None if self.left > 0 => {
                let bytes = std::mem::take(&mut self.left);
                Some(Err(ReadError::CutOff { bytes }))
            }
            None => None,
        }
    }

    /// All of them in one buffer.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn read_to_end(mut self) -> Result<Vec<u8>, ReadError> {
        let bytes = usize::try_from(self.range.end - self.range.start).unwrap_or(0);
        let mut blob = Vec::with_capacity(bytes);
        while let Some(row) = self.next().await {
            blob.extend_from_slice(&row?);
        }
        Ok(blob)
    }
}

impl Client {
    /// Starts to read a certified blob.
    ///
    /// # Errors
    /// [`ReadError::Status`] if it is not there, [`ReadError::NotReadable`], [`ReadError::Range`];
    /// what goes wrong later comes from the reader.
    pub async fn read(&self, blob: BlobId, options: ReadOptions) -> Result<BlobReader, ReadError> {
        let status = self.blob_status(blob).await?;
        if status.state != BlobState::Certified {
            return Err(ReadError::NotReadable { blob, state: status.state });
        }
        let header = *status.header();
        let layout = header.layout().expect("a parsed header has a layout");
        let range = match options.range {
            None => 0..header.len,
            Some(range) if range.start > header.len => {
                return Err(ReadError::Range { start: range.start, len: header.len });
            }
            Some(range) => range.start..range.end.clamp(range.start, header.len),
        };
        let (sender, rows) = mpsc::channel(ROWS_AHEAD);
        let left = range.end - range.start;
        let reader = BlobReader { status, range: range.clone(), left, rows };
        let certified = reader.status.record.certified;
        let first_epoch = certified.map_or(reader.status.epoch, |certified| certified.first_epoch);
        let holders = self.holders(reader.status.epoch).await;
        let sources = Sources::new(&holders, &blob, first_epoch);
        let read = Read::new(self.clone(), (blob, layout, range), (sources, first_epoch), sender);
        tokio::spawn(read.run());
        Ok(reader)
    }
}

/// A verified sliver on its way in.
type Answer = (NodeId, SliverPairIndex, Result<(PairProof, Bytes), SliverFault>);

/// One read on its way.
struct Read {
    client: Client,
    blob: BlobId,
    first_epoch: Epoch,
    /// Whom it asks.
    sources: Sources,
    /// How often it has gone on with others.
    resumes: u32,
    layout: BlobLayout,
    range: Range<u64>,
    download: Download,
    /// Rows received, each with its proof: all of them are kept, since any may be needed to decode.
    received: BTreeMap<SliverIndex, (PairProof, Bytes)>,
    decoded: BTreeMap<usize, Bytes>,
    /// What the reader has not taken yet.
    outbox: VecDeque<Bytes>,
    asks: JoinSet<Answer>,
    sender: mpsc::Sender<Result<Bytes, ReadError>>,
    started: Instant,
}

/// Why a read ends before its end.
enum End {
    Failed(ReadError),
    /// The reader was dropped.
    Abandoned,
}

impl Read {
    fn new(
        client: Client,
        (blob, layout, range): (BlobId, BlobLayout, Range<u64>),
        (sources, first_epoch): (Sources, Epoch),
        sender: mpsc::Sender<Result<Bytes, ReadError>>,
    ) -> Self {
        let wanted = layout.rows_covering(range.start, range.end);
        let mut config = client.config.download;
        let by_bytes = client.config.download_in_flight_bytes_max / layout.primary_bytes();
        // Nothing is known of the link yet: a large row may take a while on a slow one.
        config.late_unknown_ms += (layout.primary_bytes() as u64 * 1_000) >> 20;
        config.in_flight_max = by_bytes.max(config.in_flight_max).min(layout.config().n());
        let download = Download::new(config, &sources, wanted);
        Self {
            client,
            blob,
            first_epoch,
            sources,
            resumes: 0,
            layout,
            range,
            download,
            received: BTreeMap::new(),
            decoded: BTreeMap::new(),
            outbox: VecDeque::new(),
            asks: JoinSet::new(),
            sender,
            started: Instant::now(),
        }
    }

    async fn run(mut self) {
        if let Err(End::Failed(error)) = self.drive().await {
            // Nobody is left to tell when the reader is gone.
            let _ = self.sender.send(Err(error)).await;
        }
    }

    async fn drive(&mut self) -> Result<(), End> {
        let mut done = self.on_input(DownloadInput::Tick).await?;
        while !done || !self.outbox.is_empty() {
            let wake_at = self.download.wake_at_ms();
            let wake_at = wake_at.map(|ms| self.started + Duration::from_millis(ms));
            let now = Instant::now();
            let input = tokio::select! {
                room = self.sender.reserve(), if !self.outbox.is_empty() => {
                    let room = room.map_err(|_| End::Abandoned)?;
                    room.send(Ok(self.outbox.pop_front().expect("it is not empty")));
                    continue;
                }
                () = self.sender.closed() => return Err(End::Abandoned),
                Some(answer) = self.asks.join_next(), if !done => match joined(answer) {
                    (node, pair, Ok(sliver)) => {
                        self.received.insert(pair.primary(), sliver);
                        DownloadInput::Received { node, pair }
                    }
                    (node, pair, Err(fault)) => DownloadInput::Failed { node, pair, fault },
                },
                () = sleep_until(wake_at.unwrap_or(now)), if wake_at.is_some() => DownloadInput::Tick,
            };
            done = self.on_input(input).await?;
        }
        Ok(())
    }

    /// Feeds the machine and does what it says; true once everything has been handed out.
    async fn on_input(&mut self, input: DownloadInput) -> Result<bool, End> {
        let mut outputs = self.download.handle(elapsed_ms(self.started), input);
        while !outputs.is_empty() {
            let mut next_outputs = Vec::new();
            for output in outputs {
                match output {
                    DownloadOutput::Ask { node, pair } => self.ask(node, pair),
                    DownloadOutput::Emit(rows) => self.emit(rows),
                    DownloadOutput::Decode(rows) => {
                        self.decode(rows).await?;
                        let now_ms = elapsed_ms(self.started);
                        next_outputs = self.download.handle(now_ms, DownloadInput::Decoded);
                    }
                    DownloadOutput::Done => return Ok(true),
                    DownloadOutput::Failed(failure) => {
                        if !self.resume().await {
                            return Err(self.too_few(failure));
                        }
                        let now_ms = elapsed_ms(self.started);
                        next_outputs = self.download.handle(now_ms, DownloadInput::Tick);
                    }
                }
            }
            outputs = next_outputs;
        }
        Ok(false)
    }

    /// Whether others may have what nobody had, because shards have moved.
    async fn resume(&mut self) -> bool {
        if self.resumes >= RESUMES_MAX {
            return false;
        }
        self.resumes += 1;
        let holders = self.client.holders_anew().await;
        let sources = Sources::new(&holders, &self.blob, self.first_epoch);
        let moved = sources != self.sources;
        self.sources = sources;
        moved && self.download.resume(&self.sources)
    }

    fn ask(&mut self, node: NodeId, pair: SliverPairIndex) {
        let (client, blob, layout) = (self.client.clone(), self.blob, self.layout);
        self.asks.spawn(async move {
            let request = Request::ReadSliver { blob, pair, axis: Axis::Primary };
            let answer = match client.ask(node, request).await {
                Ok(Response::Sliver { proof, sliver }) => {
                    blocking(move || verify(&blob, &layout, pair, &proof, sliver)).await
                }
                Ok(Response::Refused(Refusal::NotFound | Refusal::WrongShard)) => {
                    Err(SliverFault::NotFound)
                }
                Ok(Response::Refused(Refusal::Busy { retry_after_ms })) => {
                    Err(SliverFault::Busy { retry_after_ms })
                }
                Ok(Response::Refused(_)) => Err(SliverFault::NoAnswer),
                Ok(_) => Err(SliverFault::Wrong),
                Err(error) => {
                    tracing::debug!(%node, %pair, %error, "no sliver");
                    Err(SliverFault::NoAnswer)
                }
            };
            (node, pair, answer)
        });
    }

    /// Lays out rows for the reader, cut to the range and to the blob's length.
    fn emit(&mut self, rows: Range<usize>) {
        for row in rows {
            let index = SliverIndex::new(u16::try_from(row).expect("below n_shards"));
            let bytes = match self.decoded.remove(&row) {
                Some(bytes) => bytes,
                None => self.received[&index].1.clone(),
            };
            let row_start = (row * self.layout.primary_bytes()) as u64;
            let row_end = row_start + self.layout.bytes_of_row(row) as u64;
            let start = self.range.start.clamp(row_start, row_end) - row_start;
            let end = self.range.end.clamp(row_start, row_end) - row_start;
            let cut = |offset| usize::try_from(offset).expect("within a sliver");
            let bytes = bytes.slice(cut(start)..cut(end));
            if !bytes.is_empty() {
                self.outbox.push_back(bytes);
            }
        }
    }

    /// Decodes the missing rows and checks them against the digest table.
    async fn decode(&mut self, missing: Vec<usize>) -> Result<(), End> {
        let layout = self.layout;
        let k1 = layout.config().k1();
        let proofs: Vec<_> = self.received.values().take(k1).map(|(p, _)| p.clone()).collect();
        let rows: Vec<_> =
            self.received.iter().take(k1).map(|(row, (_, bytes))| (*row, bytes.clone())).collect();
        let wanted: Vec<_> = missing
            .iter()
            .map(|row| SliverIndex::new(u16::try_from(*row).expect("below n_shards")))
            .collect();
        let decoded = blocking(move || {
            let table = DigestTable::rebuild(layout.config(), &proofs)?;
            encoding::decode_rows(&layout, &table, &rows, &wanted, threads()).map_err(Into::into)
        });
        match decoded.await {
            Ok(rows) => self.decoded = missing.into_iter().zip(rows).collect(),
            Err(DecodeFailure::Inconsistent) => {
                return Err(End::Failed(ReadError::Inconsistent { blob: self.blob }));
            }
        }
        Ok(())
    }

    fn too_few(&self, failure: DownloadFailure) -> End {
        let describe = |(node, fault): (NodeId, SliverFault)| (short(&node), fault);
        End::Failed(ReadError::TooFewSlivers {
            blob: self.blob,
            rows: failure.rows,
            rows_needed: failure.rows_needed,
            faults: failure.faults.into_iter().map(describe).collect(),
        })
    }
}

/// Slivers and shares that authenticate but do not fit together: the writer's doing.
enum DecodeFailure {
    Inconsistent,
}

impl From<TableError> for DecodeFailure {
    fn from(error: TableError) -> Self {
        tracing::warn!(%error, "digest table does not rebuild");
        Self::Inconsistent
    }
}

impl From<DecodeError> for DecodeFailure {
    fn from(error: DecodeError) -> Self {
        tracing::warn!(%error, "rows do not decode");
        Self::Inconsistent
    }
}

/// Checks a received sliver against its own pair proof, and that against the blob id.
fn verify(
    blob: &BlobId,
    layout: &BlobLayout,
    pair: SliverPairIndex,
    proof: &[u8],
    sliver: Bytes,
) -> Result<(PairProof, Bytes), SliverFault> {
    let proof = PairProof::verify_bytes(layout.config(), blob, proof);
    let proof = proof.map_err(|_| SliverFault::Wrong)?;
    if proof.index != pair {
        return Err(SliverFault::Wrong);
    }
    encoding::verify_primary(layout, &proof, &sliver).map_err(|_| SliverFault::Wrong)?;
    Ok((proof, sliver))
}
