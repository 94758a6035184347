//! A new process takes the listeners over from this one, and nobody who comes in between is refused or reset.
//!
//! The one who goes starts the binary anew (the file may be another by now) with one end of a socket pair as its
//! standard input, and sends it the listening sockets through that (`SCM_RIGHTS`). The one who comes reads its
//! configuration, opens everything, serves, and says so; only then the first stops accepting and drains. Both accept
//! from the same queue meanwhile. Where the new one fails, or says nothing in time, the old one goes on as before.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io::{IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use tokio::io::AsyncReadExt;

use super::listeners::{Inherited, Listening};
use super::reload::Before;
use crate::observe::metrics::labels::Listener;

/// Says to a process that its standard input is the end of a socket pair, by which it inherits. Its value names the
/// [kept](Before::kept) files, one a line; none where nothing is to be said of them.
pub const VARIABLE: &str = "TOLLGATE_HANDOVER";
/// What is said where there are none, and where they are too many for one variable (Linux: 128 KiB).
const NOTHING: &str = "1";
const LONGEST: usize = 100 * 1024;
/// What it answers when it serves.
const READY: &[u8] = b"ready\n";
/// How long it may take until then: opening a store includes its migrations.
const PATIENCE: Duration = Duration::from_mins(2);
/// How long the sockets may take to arrive.
const ARRIVAL: Duration = Duration::from_secs(10);
/// What is wrong where the other end is closed, at whichever step that shows.
const GONE: &str = "it ended before it served";
/// Sockets in one message: what Linux passes at most (`SCM_MAX_FD`).
const MOST: usize = 253;

/// The way back to the process before this one.
#[derive(Debug)]
pub struct Predecessor(UnixStream);

impl Predecessor {
    /// Says that this process serves now: the one before stops accepting.
    pub fn ready(mut self) {
        if let Err(error) = self.0.write_all(READY) {
            tracing::warn!(%error, "the process before this one is gone already");
        }
    }
}

/// Takes what the process before this one hands over by standard input.
pub fn inherit() -> anyhow::Result<(Inherited, Predecessor)> {
    let stdin = std::io::stdin().as_fd().try_clone_to_owned().context("standard input")?;
    let channel = UnixStream::from(stdin);
    let sockets = receive(&channel).with_context(|| {
        format!("{VARIABLE} is set, and nothing is handed over by standard input (only a gateway sets it)")
    })?;
    Ok((Inherited::from_before(sockets), Predecessor(channel)))
}

/// What is in force in the process before this one: a secret that is gone is not made anew by its successor either.
pub fn before() -> Before {
    Before { generation: 0, kept: kept_of(&std::env::var_os(VARIABLE).unwrap_or_default()) }
}

fn kept_of(named: &OsStr) -> BTreeSet<PathBuf> {
    let lines = named.as_bytes().split(|byte| *byte == b'\n').filter(|line| *line != NOTHING.as_bytes());
    lines.map(|line| PathBuf::from(OsStr::from_bytes(line))).collect()
}

fn telling(kept: &BTreeSet<PathBuf>) -> OsString {
    let lines: Vec<&OsStr> = kept.iter().map(|path| path.as_os_str()).collect();
    let named = lines.join(OsStr::new("\n"));
    if named.is_empty() || named.len() > LONGEST { NOTHING.into() } else { named }
}

fn receive(channel: &UnixStream) -> anyhow::Result<Vec<Listening>> {
    channel.set_read_timeout(Some(ARRIVAL))?;
    let mut names = vec![0; MOST * 16];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut sockets = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(channel, &mut [IoSliceMut::new(&mut names)], &mut sockets, RecvFlags::CMSG_CLOEXEC)?;
    let names = std::str::from_utf8(&names[..got.bytes])?.lines();
    let descriptors = sockets.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    let descriptors: Vec<OwnedFd> = descriptors.flatten().collect();
    let names: Vec<(Listener, bool)> = names.filter_map(named).collect();
    let counts = (descriptors.len(), names.len());
    anyhow::ensure!(counts.0 > 0 && counts.0 == counts.1, "{} sockets came, and {} names", counts.0, counts.1);
    let listening = |((scheme, fixed), descriptor)| Listening { scheme, fixed, socket: TcpListener::from(descriptor) };
    Ok(names.into_iter().zip(descriptors).map(listening).collect())
}

/// How a socket is called on the way: `https`, or `https!` where it stands in place of the configured addresses.
fn name(socket: &Listening) -> String {
    format!("{}{}\n", socket.scheme.name(), if socket.fixed { "!" } else { "" })
}

fn named(line: &str) -> Option<(Listener, bool)> {
    let bare = line.strip_suffix('!');
    let scheme = Listener::ALL.iter().find(|scheme| scheme.name() == bare.unwrap_or(line))?;
    Some((*scheme, bare.is_some()))
}

fn send(channel: &UnixStream, sockets: &[Listening]) -> anyhow::Result<()> {
    anyhow::ensure!(sockets.len() <= MOST, "more than {MOST} listeners cannot be handed over");
    let names: String = sockets.iter().map(name).collect();
    let descriptors: Vec<BorrowedFd<'_>> = sockets.iter().map(|it| it.socket.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut message = SendAncillaryBuffer::new(&mut space);
    anyhow::ensure!(message.push(SendAncillaryMessage::ScmRights(&descriptors)), "too many listeners");
    let sent = sendmsg(channel, &[IoSlice::new(names.as_bytes())], &mut message, SendFlags::NOSIGNAL)?;
    anyhow::ensure!(sent == names.len(), "the sockets were not sent whole");
    Ok(())
}

/// A process that was started and does not serve yet. It does not outlive this.
struct Starting(Option<Child>);

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            // It may have ended by itself; either way it is not left as a zombie.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Starts this program again as it was started, hands it the sockets, and waits until it serves; its process id.
pub(super) async fn hand_over(sockets: &[Listening], before: Before) -> anyhow::Result<u32> {
    // A container ends with its first process, whoever else serves in it.
    anyhow::ensure!(std::process::id() != 1, "process 1 cannot hand over: its container ends with it");
    let mut arguments = std::env::args_os();
    let program = arguments.next().context("how this program was started is not known")?;
    take_over(command(program, arguments, &before), sockets).await
}

fn command(program: OsString, arguments: impl Iterator<Item = OsString>, before: &Before) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).env(VARIABLE, telling(&before.kept));
    // These are meant for the process that the service manager has started.
    for name in ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_PID"] {
        command.env_remove(name);
    }
    command
}

async fn take_over(mut command: Command, sockets: &[Listening]) -> anyhow::Result<u32> {
    let (ours, theirs) = UnixStream::pair()?;
    command.stdin(Stdio::from(OwnedFd::from(theirs)));
    let program = command.get_program().display().to_string();
    let mut starting = Starting(Some(command.spawn().with_context(|| format!("{program} cannot be started"))?));
    // Its end must be open in the new process alone: then its death is the end of ours.
    drop(command);
    send(&ours, sockets).context(GONE)?;
    ours.set_nonblocking(true)?;
    let mut answer = tokio::net::UnixStream::from_std(ours)?;
    let mut said = [0; READY.len()];
    let heard = tokio::time::timeout(PATIENCE, answer.read_exact(&mut said)).await;
    heard.with_context(|| format!("it did not serve within {PATIENCE:?}"))?.context(GONE)?;
    anyhow::ensure!(said == READY, "it is no gateway");
    Ok(starting.0.take().expect("nobody else takes it").id())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listening(scheme: Listener) -> Listening {
        Listening { scheme, fixed: scheme == Listener::Admin, socket: TcpListener::bind("127.0.0.1:0").unwrap() }
    }

    #[test]
    fn sockets_arrive_with_their_names_and_take_connections() {
        let (here, there) = UnixStream::pair().unwrap();
        let sent = [listening(Listener::Https), listening(Listener::Admin)];
        send(&here, &sent).unwrap();
        let got = receive(&there).unwrap();
        let names: Vec<_> = got.iter().map(|it| (it.scheme, it.fixed)).collect();
        assert_eq!(names, [(Listener::Https, false), (Listener::Admin, true)]);
        let address = sent[0].socket.local_addr().unwrap();
        assert_eq!(got[0].socket.local_addr().unwrap(), address);
        // Whoever has come before the first is closed is in the queue of the second.
        let client = std::net::TcpStream::connect(address).unwrap();
        drop(sent);
        let (_, from) = got[0].socket.accept().unwrap();
        assert_eq!(from, client.local_addr().unwrap());
    }

    #[test]
    fn the_kept_files_are_named_to_the_one_who_comes_unless_they_are_too_many() {
        let kept = BTreeSet::from(["a b".into(), "c/d".into()]);
        assert_eq!(telling(&kept), "a b\nc/d");
        assert_eq!(telling(&BTreeSet::new()), NOTHING);
        let many = (0..LONGEST).map(|number| PathBuf::from(number.to_string())).collect();
        assert_eq!(telling(&many), NOTHING);
        for (named, files) in [("1", vec![]), ("a b\nc/d", vec!["a b", "c/d"])] {
            assert_eq!(kept_of(OsStr::new(named)), files.into_iter().map(PathBuf::from).collect());
        }
    }

    #[test]
    fn what_is_no_handover_is_none() {
        let (mut here, there) = UnixStream::pair().unwrap();
        here.write_all(b"https\n").unwrap();
        assert!(receive(&there).unwrap_err().to_string().contains("0 sockets came, and 1 names"));
        drop(here);
        receive(&there).unwrap_err();
    }

    #[tokio::test]
    async fn a_program_that_ends_or_says_something_else_takes_nothing_over() {
        let sockets = [listening(Listener::Https)];
        for (script, why) in [
            ("exit 3", "it ended before it served"),
            ("printf 'hello\\n' >&0; sleep 5", "it is no gateway"),
            ("exec 0<&-; sleep 5", "it ended before it served"),
        ] {
            let mut shell = Command::new("sh");
            shell.args(["-c", script]);
            let error = take_over(shell, &sockets).await.unwrap_err();
            assert!(format!("{error:#}").contains(why), "{script}: {error:#}");
        }
        let error = take_over(Command::new("/nowhere/tollgate"), &sockets).await.unwrap_err();
        assert!(format!("{error:#}").contains("/nowhere/tollgate cannot be started"), "{error:#}");
    }
}
