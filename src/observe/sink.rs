//! The way of a line out of the process without making a request wait.
//!
//! Lines are appended to a bounded buffer in memory; one thread takes the whole buffer at a time and
//! writes it. The lock is held for a copy of a few hundred bytes, never for a write. When the buffer is
//! full (a pipe that nobody reads, a full disk) lines are dropped and counted: a log must not stop the
//! gateway.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::IntCounter;

/// How many bytes may wait.
const ROOM: usize = 4 * 1024 * 1024;
/// How many more for lines that matter more than access lines: events and the audit trail.
const RESERVE: usize = 1024 * 1024;

/// Where lines are handed in.
#[derive(Clone, Debug)]
pub(super) struct Sink(Arc<Shared>);

/// The thread that writes them.
#[derive(Debug)]
pub(super) struct Writer {
    shared: Arc<Shared>,
    done: Receiver<()>,
}

#[derive(Debug)]
struct Shared {
    waiting: Mutex<Waiting>,
    wake: Condvar,
    dropped: IntCounter,
}

#[derive(Debug, Default)]
struct Waiting {
    bytes: Vec<u8>,
    lines: u64,
    /// The thread sleeps until somebody wakes it.
    idle: bool,
    stopped: bool,
}

/// Which lines go first when not all can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weight {
    /// May be dropped while there is still room for others.
    Light,
    /// Is kept as long as there is any room.
    Heavy,
}

impl Sink {
    /// A sink whose thread writes to `out` and rests for `pause` after each write, so that a busy gateway
    /// wakes it hundreds of times a second and not once a line.
    pub(super) fn start(
        mut out: Box<dyn Write + Send>,
        pause: Duration,
        dropped: IntCounter,
    ) -> io::Result<(Self, Writer)> {
        let shared = Arc::new(Shared { waiting: Mutex::default(), wake: Condvar::new(), dropped });
        let (finished, done) = sync_channel(1);
        let thread = shared.clone();
        std::thread::Builder::new().name("tollgate-log".to_owned()).spawn(move || {
            thread.run(&mut *out, pause);
            // Nobody may be waiting any more.
            let _ = finished.send(());
        })?;
        Ok((Self(shared.clone()), Writer { shared, done }))
    }

    /// Hands in a line that ends with a line feed.
    pub(super) fn push(&self, line: &[u8], weight: Weight) {
        let room = if weight == Weight::Heavy { ROOM + RESERVE } else { ROOM };
        let mut waiting = self.0.lock();
        if waiting.stopped || waiting.bytes.len() + line.len() > room {
            drop(waiting);
            self.0.dropped.inc();
            return;
        }
        waiting.bytes.extend_from_slice(line);
        waiting.lines += 1;
        if waiting.idle {
            waiting.idle = false;
            drop(waiting);
            self.0.wake.notify_one();
        }
    }
}

impl Writer {
    /// Writes what waits and ends the thread; `false` when that took longer than `patience`. Lines handed
    /// in afterwards are dropped.
    pub(super) fn finish(&self, patience: Duration) -> bool {
        self.shared.lock().stopped = true;
        self.shared.wake.notify_one();
        self.done.recv_timeout(patience).is_ok()
    }
}

impl Drop for Writer {
    /// Whoever leaves early does not lose what was said last; after [`Self::finish`] this returns at once.
    fn drop(&mut self) {
        self.finish(Duration::from_secs(1));
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing panics while it holds the lock, and a log goes on after whatever did.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, out: &mut dyn Write, pause: Duration) {
        let mut taken = Vec::new();
        loop {
            let mut waiting = self.lock();
            while waiting.bytes.is_empty() && !waiting.stopped {
                waiting.idle = true;
                waiting = self.wake.wait(waiting).unwrap_or_else(PoisonError::into_inner);
            }
            waiting.idle = false;
            if waiting.bytes.is_empty() {
                return;
            }
            std::mem::swap(&mut waiting.bytes, &mut taken);
            let lines = std::mem::take(&mut waiting.lines);
            drop(waiting);
            if out.write_all(&taken).and_then(|()| out.flush()).is_err() {
                self.dropped.inc_by(lines);
            }
            taken.clear();
            let rest = self.wake.wait_timeout_while(self.lock(), pause, |waiting| !waiting.stopped);
            drop(rest);
        }
    }
}

/// A file whose every batch reaches the disk: an act that was answered is on record after a power cut, but for the last
/// milliseconds. Where somebody has moved it away (`logrotate`) or removed it, it is made anew.
#[derive(Debug)]
pub(super) struct Durable {
    path: PathBuf,
    file: File,
}

impl Durable {
    /// Opens or makes the file, for this user alone, and its folder.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        Ok(Self { path: path.to_owned(), file })
    }

    fn is_in_place(&self) -> io::Result<bool> {
        let ours = self.file.metadata()?;
        Ok(std::fs::metadata(&self.path).is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino())))
    }
}

impl Write for Durable {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.is_in_place()? {
            *self = Self::open(&self.path)?;
        }
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::sync::mpsc::Sender;

    /// An output that a test can read.
    #[derive(Clone, Debug, Default)]
    pub(in crate::observe) struct Memory(Arc<Mutex<Vec<u8>>>);

    impl Memory {
        pub(in crate::observe) fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn counter() -> IntCounter {
        IntCounter::new("dropped", "dropped").unwrap()
    }

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn every_line_of_every_thread_is_written_once_and_whole() {
        let memory = Memory::default();
        let dropped = counter();
        let pause = Duration::from_millis(1);
        let (sink, writer) = Sink::start(Box::new(memory.clone()), pause, dropped.clone()).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let sink = &sink;
                scope.spawn(move || {
                    for line in 0..1000 {
                        sink.push(format!("{thread} {line}\n").as_bytes(), Weight::Light);
                    }
                });
            }
        });
        assert!(writer.finish(LONG));
        let text = memory.text();
        let mut lines: Vec<&str> = text.lines().collect();
        lines.sort_unstable();
        lines.dedup();
        assert_eq!((lines.len(), dropped.get()), (4000, 0));
        sink.push(b"late\n", Weight::Heavy);
        assert_eq!((memory.text().contains("late"), dropped.get()), (false, 1));
    }

    /// An output that nobody reads, until it is let go.
    struct Stuck(Receiver<()>, Sender<()>);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.1.send(());
            let _ = self.0.recv();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_is_stuck_costs_lines_and_never_time_and_audit_lines_go_last() {
        let (release, stuck) = std::sync::mpsc::channel();
        let (writing, is_writing) = std::sync::mpsc::channel();
        let dropped = counter();
        let (sink, writer) = Sink::start(Box::new(Stuck(stuck, writing)), Duration::ZERO, dropped.clone()).unwrap();
        sink.push(b"first\n", Weight::Light);
        is_writing.recv().unwrap();
        let line = [b'x'; 1024];
        for _ in 0..ROOM / line.len() {
            sink.push(&line, Weight::Light);
        }
        assert_eq!(dropped.get(), 0);
        sink.push(&line, Weight::Light);
        assert_eq!(dropped.get(), 1);
        sink.push(&line, Weight::Heavy);
        assert_eq!(dropped.get(), 1);
        assert!(!writer.finish(Duration::from_millis(20)));
        drop(release);
        assert!(writer.done.recv_timeout(LONG).is_ok());
    }

    #[test]
    fn a_writer_that_is_only_dropped_still_writes_what_waits() {
        let memory = Memory::default();
        let (sink, writer) = Sink::start(Box::new(memory.clone()), Duration::from_mins(1), counter()).unwrap();
        sink.push(b"last words\n", Weight::Light);
        drop(writer);
        assert_eq!(memory.text(), "last words\n");
    }

    struct Full;

    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_could_not_be_written_are_counted() {
        let dropped = counter();
        let (sink, writer) = Sink::start(Box::new(Full), Duration::ZERO, dropped.clone()).unwrap();
        sink.push(b"one\n", Weight::Heavy);
        sink.push(b"two\n", Weight::Heavy);
        assert!(writer.finish(LONG));
        assert_eq!(dropped.get(), 2);
    }
}
