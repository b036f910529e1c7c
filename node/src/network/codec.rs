//! The wire form of requests and responses on a stream.
//!
//! `u32` LE length of the head, the head in CBOR, then the raw payload whose length the head
//! states, then the end of the stream. Payloads are read into one buffer of known length, in
//! chunks, after room for them was taken; payload parts are written without joining them. All of
//! it runs in the connection's own task, not in the swarm's.
//!
//! Invariants: a head above [`MAX_HEAD_BYTES`] is never read; a payload above the limit of its kind
//! is never read; anything behind the payload is refused; every step has a deadline, which grows
//! with the size, so that a stream that sends nothing ends. A request that finds no slot or room
//! is read to its end without being kept, because only then does its sender hear `Busy`.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use floe_protocol::message::{
    Frame, Limits, MAX_HEAD_BYTES, MessageError, PREFIX_BYTES, Request, RequestHead, Response,
    ResponseHead,
};
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::{StreamProtocol, request_response};
use tokio::time::{Instant, sleep, timeout};

use super::{
    admission::{Account, Admission, Crowded, OpenStream},
    config::NetworkConfig,
    metrics::{INBOUND, Metrics, OUTBOUND},
    throttle::Throttle,
};

/// Bytes that are read or written between two looks at the clock and the throttle.
const CHUNK_BYTES: usize = 64 << 10;
/// The path of a symbol in a tree of 256 leaves.
const PATH_BYTES_MAX: u64 = 8 * 32;

/// The protocol of a stream and, on inbound streams, the account of the peer that opened it: the
/// only way to tell a codec whom it reads from.
#[derive(Clone, Debug)]
pub(super) struct ProtocolName {
    name: StreamProtocol,
    pub(super) account: Option<Arc<Account>>,
    /// Ends with the stream.
    pub(super) open: Option<Arc<OpenStream>>,
}

impl From<StreamProtocol> for ProtocolName {
    fn from(name: StreamProtocol) -> Self {
        Self { name, account: None, open: None }
    }
}

impl AsRef<str> for ProtocolName {
    fn as_ref(&self) -> &str {
        self.name.as_ref()
    }
}

/// A request on its way.
#[derive(Debug)]
pub(super) enum Ask {
    /// To a peer.
    Outbound(Request),
    /// From a peer, with the room that it takes.
    Inbound(Request, Admission),
    /// From a peer, read but not kept: to be told `Busy`.
    Crowded(Crowded),
}

/// A response on its way, with the room that its request took of this peer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) response: Response,
    pub(super) admission: Option<Admission>,
}

/// What ends a stream before its time.
#[derive(Debug, thiserror::Error)]
pub(super) enum StreamError {
    #[error("head of {0} bytes announced")]
    HeadTooLong(u32),
    #[error(transparent)]
    Message(MessageError),
    #[error("bytes after the message")]
    Trailing,
    #[error("stream ended within a message")]
    Truncated,
    #[error("too slow")]
    Timeout,
    /// The peer is left to cool down.
    #[error("not heard")]
    Unheard,
    /// Own message, which the limits do not allow.
    #[error("own message: {0}")]
    Own(MessageError),
    #[error(transparent)]
    Io(io::Error),
}

impl From<io::Error> for StreamError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof { Self::Truncated } else { Self::Io(error) }
    }
}

impl From<MessageError> for StreamError {
    fn from(error: MessageError) -> Self {
        Self::Message(error)
    }
}

impl From<StreamError> for io::Error {
    fn from(error: StreamError) -> Self {
        match error {
            StreamError::Io(error) => error,
            other => Self::other(other),
        }
    }
}

impl StreamError {
    /// A word for metrics, where the peer sent what no peer should.
    const fn malformed(&self) -> Option<&'static str> {
        Some(match self {
            Self::HeadTooLong(_) => "head_too_long",
            Self::Message(MessageError::Head(_)) => "head",
            Self::Message(MessageError::PayloadTooLarge { .. }) => "payload_too_large",
            Self::Message(MessageError::PayloadLength) => "payload_length",
            Self::Message(MessageError::Field) => "field",
            Self::Message(MessageError::Payload) => "payload",
            Self::Trailing => "trailing",
            Self::Truncated => "truncated",
            Self::Timeout => "timeout",
            Self::Unheard | Self::Own(_) | Self::Io(_) => return None,
        })
    }

    /// Whether the peer broke the rules, rather than lost its connection or its patience.
    const fn is_violation(&self) -> bool {
        matches!(self, Self::HeadTooLong(_) | Self::Message(_) | Self::Trailing)
    }
}

/// Reads and writes messages. Cheap to clone: libp2p clones it for every stream.
#[derive(Clone, Debug)]
pub(super) struct Codec {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: NetworkConfig,
    upload: Throttle,
    download: Throttle,
    metrics: Metrics,
}

impl Codec {
    /// A codec with the limits, times and caps of `config`.
    pub(super) fn new(config: &NetworkConfig, metrics: Metrics) -> Self {
        Self {
            shared: Arc::new(Shared {
                config: config.clone(),
                upload: Throttle::new(config.limits.upload_bytes_per_second),
                download: Throttle::new(config.limits.download_bytes_per_second),
                metrics,
            }),
        }
    }
}

impl Shared {
    const fn limits(&self) -> &Limits {
        &self.config.messages
    }

    const fn transfer_timeout(&self) -> Duration {
        Duration::from_millis(self.config.limits.transfer_timeout_ms)
    }

    const fn stall_timeout(&self) -> Duration {
        Duration::from_millis(self.config.limits.stall_timeout_ms)
    }

    /// Reads a head, whose first byte may take `patience`.
    async fn read_head<T>(&self, io: &mut T, patience: Duration) -> Result<Vec<u8>, StreamError>
    where
        T: AsyncRead + Unpin + Send,
    {
        let mut prefix = [0; PREFIX_BYTES];
        within(patience, io.read_exact(&mut prefix[..1])).await?;
        let rest = async {
            io.read_exact(&mut prefix[1..]).await?;
            let bytes = u32::from_le_bytes(prefix);
            let length = usize::try_from(bytes).unwrap_or(usize::MAX);
            if length > MAX_HEAD_BYTES {
                return Err(StreamError::HeadTooLong(bytes));
            }
            let mut head = vec![0; length];
            io.read_exact(&mut head).await?;
            Ok(head)
        };
        let head = timeout(self.transfer_timeout(), rest).await;
        head.map_err(|_| StreamError::Timeout)?
    }

    /// Reads a payload of known length and the end of the stream behind it.
    async fn read_payload<T>(
        &self,
        io: &mut T,
        bytes: usize,
        throttle: &Throttle,
    ) -> Result<Bytes, StreamError>
    where
        T: AsyncRead + Unpin + Send,
    {
        let mut left = self.config.transfer_timeout(bytes);
        // The pages of this capacity are used only as the bytes arrive.
        let mut payload = Vec::with_capacity(bytes);
        while payload.len() < bytes {
            let start = payload.len();
            let end = bytes.min(start + CHUNK_BYTES);
            throttle.pass(end - start).await;
            payload.resize(end, 0);
            let began = Instant::now();
            let patience = left.min(self.stall_timeout());
            within(patience, io.read_exact(&mut payload[start..end])).await?;
            left = left.saturating_sub(began.elapsed());
        }
        let behind = within(self.stall_timeout(), io.read(&mut [0])).await?;
        if behind != 0 {
            return Err(StreamError::Trailing);
        }
        self.metrics.payload(INBOUND, bytes);
        Ok(payload.into())
    }

    /// Reads and forgets what a crowded-out request still sends.
    async fn drain<T>(&self, io: &mut T, bytes: usize) -> Result<(), StreamError>
    where
        T: AsyncRead + Unpin + Send,
    {
        let mut left = self.config.transfer_timeout(bytes);
        let mut rest = bytes;
        let mut buffer = [0; 4 << 10];
        loop {
            let began = Instant::now();
            let patience = left.min(self.stall_timeout());
            let read = within(patience, io.read(&mut buffer)).await?;
            if read == 0 {
                return Ok(());
            }
            rest = rest.checked_sub(read).ok_or(StreamError::Trailing)?;
            self.download.pass(read).await;
            left = left.saturating_sub(began.elapsed());
        }
    }

    async fn read_ask<T>(&self, account: &Arc<Account>, io: &mut T) -> Result<Ask, StreamError>
    where
        T: AsyncRead + Unpin + Send,
    {
        if let Some(rest) = account.cooling() {
            // Whoever waits for an answer sends nothing else meanwhile: a stream that is closed at
            // once would come back at once.
            sleep(rest).await;
            return Err(StreamError::Unheard);
        }
        let head = self.read_head(io, self.transfer_timeout()).await?;
        let head = RequestHead::decode(self.limits(), &head)?;
        let payload_bytes = head.payload_bytes();
        let room = payload_bytes + self.answer_bytes(&head);
        let wait = Duration::from_millis(self.config.limits.admission_timeout_ms);
        // Not earlier: a stream that sends nothing takes no slot.
        let admission = match account.slot(head.is_urgent()) {
            Ok(slot) => account.admit(slot, room, wait).await,
            Err(crowded) => Err(crowded),
        };
        match admission {
            Ok(admission) => {
                let payload = self.read_payload(io, payload_bytes, &self.download).await;
                if matches!(payload, Err(StreamError::Timeout)) {
                    // It took room for nothing. A head that does not come took none.
                    account.violation();
                }
                let payload = payload?;
                let request = Request::from_parts(self.limits(), head, payload)?;
                Ok(Ask::Inbound(request, admission))
            }
            Err(crowded) => {
                self.drain(io, payload_bytes).await?;
                Ok(Ask::Crowded(crowded))
            }
        }
    }

    /// Bytes that the answer to a request may take: room for them is taken beforehand, because the
    /// service will hold them until the asker has read them.
    fn answer_bytes(&self, head: &RequestHead) -> usize {
        match head {
            RequestHead::ReadSliver { .. } => {
                usize::try_from(self.limits().max_primary_bytes()).unwrap_or(usize::MAX)
            }
            RequestHead::ReadPairs { .. } => {
                usize::try_from(self.limits().max_payload_bytes()).unwrap_or(usize::MAX)
            }
            // Few are asked for, mostly: what they may take, not what all may.
            RequestHead::ReadSymbols { targets, .. } => {
                let symbol = self.limits().config().max_symbol_bytes() + PATH_BYTES_MAX;
                let bytes = (targets.len() as u64).saturating_mul(symbol);
                let bytes = bytes.min(self.limits().max_payload_bytes());
                usize::try_from(bytes).unwrap_or(usize::MAX)
            }
            RequestHead::Ledger { kind, .. } => kind.max_response_bytes(),
            // A transcript is the node's own, and there once for all that ask for it.
            RequestHead::ReadTranscript { .. }
            | RequestHead::Table { .. }
            | RequestHead::StoreSlivers { .. }
            | RequestHead::Confirm { .. }
            | RequestHead::Attest { .. }
            | RequestHead::Acknowledge { .. }
            | RequestHead::NodeStatus => 0,
        }
    }

    async fn read_answer<T>(&self, io: &mut T) -> Result<Answer, StreamError>
    where
        T: AsyncRead + Unpin + Send,
    {
        let patience = Duration::from_millis(self.config.limits.answer_timeout_ms);
        let head = self.read_head(io, patience).await?;
        let head = ResponseHead::decode(self.limits(), &head)?;
        let no_cap = Throttle::default();
        let is_urgent = matches!(head, ResponseHead::Transcript { .. });
        let throttle = if is_urgent { &no_cap } else { &self.download };
        let payload = self.read_payload(io, head.payload_bytes(self.limits()), throttle).await?;
        Ok(Answer {
            response: Response::from_parts(self.limits(), head, payload)?,
            admission: None,
        })
    }

    async fn write_frame<T>(
        &self,
        io: &mut T,
        frame: Frame,
        throttle: &Throttle,
    ) -> Result<(), StreamError>
    where
        T: AsyncWrite + Unpin + Send,
    {
        let length = u32::try_from(frame.head.len()).expect("encoding bounds the head");
        let mut head = Vec::with_capacity(PREFIX_BYTES + frame.head.len());
        head.extend_from_slice(&length.to_le_bytes());
        head.extend_from_slice(&frame.head);
        within(self.transfer_timeout(), io.write_all(&head)).await?;
        let bytes = frame.payload.iter().map(Bytes::len).sum();
        let mut left = self.config.transfer_timeout(bytes);
        for chunk in frame.payload.iter().flat_map(|part| part.chunks(CHUNK_BYTES)) {
            throttle.pass(chunk.len()).await;
            let began = Instant::now();
            let patience = left.min(self.stall_timeout());
            within(patience, io.write_all(chunk)).await?;
            left = left.saturating_sub(began.elapsed());
        }
        self.metrics.payload(OUTBOUND, bytes);
        Ok(())
    }

    /// Counts what was wrong with a stream.
    fn note(&self, error: &StreamError, account: Option<&Arc<Account>>) {
        if let Some(reason) = error.malformed() {
            self.metrics.malformed(reason);
        }
        if let Some(account) = account.filter(|_| error.is_violation()) {
            account.violation();
        }
    }
}

/// Bounds an operation on a stream.
async fn within<V, E>(
    patience: Duration,
    operation: impl Future<Output = Result<V, E>>,
) -> Result<V, StreamError>
where
    StreamError: From<E>,
{
    let done = timeout(patience, operation).await;
    Ok(done.map_err(|_| StreamError::Timeout)??)
}

impl request_response::Codec for Codec {
    type Protocol = ProtocolName;
    type Request = Ask;
    type Response = Answer;

    async fn read_request<T>(&mut self, protocol: &ProtocolName, io: &mut T) -> io::Result<Ask>
    where
        T: AsyncRead + Unpin + Send,
    {
        let account = protocol.account.as_ref();
        let account = account.expect("the exchange behaviour gives every inbound stream one");
        let ask = self.shared.read_ask(account, io).await;
        Ok(ask.inspect_err(|error| self.shared.note(error, Some(account)))?)
    }

    async fn read_response<T>(&mut self, _: &ProtocolName, io: &mut T) -> io::Result<Answer>
    where
        T: AsyncRead + Unpin + Send,
    {
        let answer = self.shared.read_answer(io).await;
        Ok(answer.inspect_err(|error| self.shared.note(error, None))?)
    }

    async fn write_request<T>(&mut self, _: &ProtocolName, io: &mut T, ask: Ask) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        let Ask::Outbound(request) = ask else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let frame = request.into_frame().map_err(StreamError::Own)?;
        Ok(self.shared.write_frame(io, frame, &self.shared.upload).await?)
    }

    async fn write_response<T>(
        &mut self,
        _: &ProtocolName,
        io: &mut T,
        answer: Answer,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        let no_cap = Throttle::default();
        let is_urgent = matches!(answer.response, Response::Transcript(_));
        let throttle = if is_urgent { &no_cap } else { &self.shared.upload };
        let frame = answer.response.into_frame().map_err(StreamError::Own)?;
        let written = self.shared.write_frame(io, frame, throttle).await;
        drop(answer.admission);
        Ok(written?)
    }
}
