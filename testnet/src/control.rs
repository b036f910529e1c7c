//! The control socket of a running swarm: how other commands reach it.
//!
//! A Unix socket in the swarm's directory takes one command a connection, one line of JSON, and
//! answers with one line. A task reads and writes; the commands pass through a bounded channel to
//! whoever owns the [`Cluster`](crate::Cluster), one after the other. File permissions of the
//! directory decide who may connect. Invariant: a peer that sends slowly or too much is cut off and
//! delays nobody.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};

use crate::cluster::SwarmStatus;

const SOCKET: &str = "control.sock";
const LINE_BYTES_MAX: u64 = 64 << 10;
const COMMANDS_MAX: usize = 16;
const READ_DEADLINE: Duration = Duration::from_secs(5);
/// A node that stops finishes what it is doing, and a swarm does one thing at a time.
const ANSWER_DEADLINE: Duration = Duration::from_secs(300);

/// What a running swarm can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Command {
    /// Say how you are.
    Status,
    /// Start a node.
    Start { node: usize },
    /// Stop a node in order.
    Stop { node: usize },
    /// Kill a node.
    Kill { node: usize },
}

/// What it answers: how it is after the command, or why it was not done.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    Done(SwarmStatus),
    Failed(String),
}

/// A command and the way back.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) command: Command,
    pub(crate) answer: oneshot::Sender<Answer>,
}

/// The listening socket. Dropping it removes it.
#[derive(Debug)]
pub(crate) struct ControlSocket {
    path: PathBuf,
    task: JoinHandle<()>,
    asked: mpsc::Receiver<Asked>,
}

impl ControlSocket {
    /// Listens in the directory of a swarm, whose lock the caller holds: a socket that is already
    /// there was left behind.
    pub(crate) fn listen(dir: &Path) -> anyhow::Result<Self> {
        let path = dir.join(SOCKET);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", path.display()));
            }
            Ok(()) | Err(_) => {}
        }
        let listener = UnixListener::bind(&path)
            .with_context(|| format!("cannot listen on the control socket {}", path.display()))?;
        let (sender, asked) = mpsc::channel(COMMANDS_MAX);
        let task = tokio::spawn(accept(listener, sender));
        Ok(Self { path, task, asked })
    }

    /// The next command.
    pub(crate) async fn next(&mut self) -> Asked {
        match self.asked.recv().await {
            Some(asked) => asked,
            None => std::future::pending().await,
        }
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        self.task.abort();
        // It may have been removed with its directory.
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn accept(listener: UnixListener, asked: mpsc::Sender<Asked>) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "control socket");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        // The channel bounds how many of these wait.
        let Ok(place) = asked.clone().reserve_owned().await else {
            return;
        };
        tokio::spawn(async move {
            if let Err(error) = serve(stream, place).await {
                tracing::debug!(%error, "control connection");
            }
        });
    }
}

async fn serve(stream: UnixStream, place: mpsc::OwnedPermit<Asked>) -> anyhow::Result<()> {
    let mut stream = BufReader::new(stream);
    let answer = match timeout(READ_DEADLINE, read_line(&mut stream)).await? {
        Ok(command) => {
            let (answer, answered) = oneshot::channel();
            place.send(Asked { command, answer });
            answered.await.unwrap_or_else(|_| Answer::Failed("the swarm is stopping".into()))
        }
        Err(error) => Answer::Failed(format!("{error:#}")),
    };
    write_line(&mut stream, &answer).await
}

/// Tells the swarm in `dir` something and returns how it is then.
pub(crate) async fn ask(dir: &Path, command: Command) -> anyhow::Result<SwarmStatus> {
    let path = dir.join(SOCKET);
    let stream = match UnixStream::connect(&path).await {
        Ok(stream) => stream,
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => bail!(
                "no swarm is running in {dir}: start one with `floe-testnet up --dir {dir}`",
                dir = dir.display()
            ),
            _ => return Err(error).with_context(|| format!("cannot reach {}", path.display())),
        },
    };
    let mut stream = BufReader::new(stream);
    write_line(&mut stream, &command).await?;
    let answer = timeout(ANSWER_DEADLINE, read_line(&mut stream)).await;
    match answer.context("the swarm does not answer")?.context("the swarm has ended")? {
        Answer::Done(status) => Ok(status),
        Answer::Failed(message) => bail!(message),
    }
}

async fn read_line<T: DeserializeOwned>(stream: &mut BufReader<UnixStream>) -> anyhow::Result<T> {
    let mut line = String::new();
    stream.take(LINE_BYTES_MAX).read_line(&mut line).await?;
    serde_json::from_str(&line).context("not understood")
}

async fn write_line(
    stream: &mut BufReader<UnixStream>,
    value: &impl Serialize,
) -> anyhow::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    Ok(stream.flush().await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(dir: &Path) -> SwarmStatus {
        SwarmStatus {
            dir: dir.to_owned(),
            n_shards: 64,
            running_shards: 55,
            read_shards: 22,
            store_shards: 43,
            nodes: Vec::new(),
        }
    }

    #[tokio::test]
    async fn commands_reach_the_owner_and_answers_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let mut socket = ControlSocket::listen(dir.path()).unwrap();
        let owner = async {
            let asked = socket.next().await;
            assert_eq!(asked.command, Command::Stop { node: 3 });
            asked.answer.send(Answer::Done(status(dir.path()))).unwrap();
            let asked = socket.next().await;
            assert_eq!(asked.command, Command::Status);
            asked.answer.send(Answer::Failed("no node 9".into())).unwrap();
        };
        let asker = async {
            let done = ask(dir.path(), Command::Stop { node: 3 }).await.unwrap();
            assert_eq!(done, status(dir.path()));
            let error = ask(dir.path(), Command::Status).await.unwrap_err();
            assert_eq!(error.to_string(), "no node 9");
        };
        tokio::join!(owner, asker);
    }

    #[tokio::test]
    async fn what_is_no_command_is_answered_and_not_passed_on() {
        let dir = tempfile::tempdir().unwrap();
        let _socket = ControlSocket::listen(dir.path()).unwrap();
        let stream = UnixStream::connect(dir.path().join(SOCKET)).await.unwrap();
        let mut stream = BufReader::new(stream);
        stream.write_all(b"{\"explode\":{}}\n").await.unwrap();
        let answer: Answer = read_line(&mut stream).await.unwrap();
        assert!(matches!(answer, Answer::Failed(_)), "{answer:?}");
    }

    #[tokio::test]
    async fn without_a_swarm_the_error_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let absent = ask(dir.path(), Command::Status).await.unwrap_err().to_string();
        assert!(absent.contains("no swarm is running"), "{absent}");
        // A swarm that was killed leaves its socket; the next one takes its place.
        drop(UnixListener::bind(dir.path().join(SOCKET)).unwrap());
        let dead = ask(dir.path(), Command::Status).await.unwrap_err().to_string();
        assert!(dead.contains("floe-testnet up --dir"), "{dead}");
        drop(ControlSocket::listen(dir.path()).unwrap());
        assert!(!dir.path().join(SOCKET).exists());
    }
}
