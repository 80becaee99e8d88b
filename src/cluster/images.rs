//! Images of transactions as they come out of a slot, until somebody takes them; and which databases have a slot.
//!
//! Bounds: the lines of the transaction at hand take at most `image_limit` bytes, whosever it is; beyond that they are
//! dropped, and the transaction is refused if it turns out to be ours. Images that nobody takes are dropped after a while.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::per_database::PerDatabase;
use crate::image::Refusal;
use crate::image::decode::{Change, Line, line};

/// Which databases have a slot that is being read: looked at by sessions, set by the control plane.
#[derive(Debug, Default)]
pub struct Slots(PerDatabase<AtomicU8>);

/// What stands in a [`Slot`]; 0: there is none.
const MAKING: u8 = 1;
const READY: u8 = 2;

/// One database's.
#[derive(Clone, Debug)]
pub struct Slot(Arc<AtomicU8>);

impl Slot {
    /// What a transaction prepares that begins to write now will be told of.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.0.load(Ordering::Acquire) == READY
    }

    /// It waits for all transactions that are writing.
    #[must_use]
    pub fn is_being_made(&self) -> bool {
        self.0.load(Ordering::Acquire) == MAKING
    }

    /// It is being made.
    pub fn making(&self) {
        self.0.store(MAKING, Ordering::Release);
    }

    /// It is ready, or is no more.
    pub fn set(&self, ready: bool) {
        self.0.store(if ready { READY } else { 0 }, Ordering::Release);
    }
}

impl Slots {
    /// The database's.
    #[must_use]
    pub fn of(&self, database: &str) -> Slot {
        Slot(self.0.of(database))
    }
}

/// What a transaction changed.
pub type Image = Result<Vec<Change>, Refusal>;

/// The lines of the transaction at hand, and images that wait to be taken.
#[derive(Debug)]
pub struct Images {
    /// Images of names that begin like this are kept.
    ours: String,
    /// `image_limit`.
    limit: usize,
    lines: Vec<Bytes>,
    bytes: usize,
    overflown: bool,
    done: HashMap<Bytes, (Instant, Image)>,
    waiting: HashMap<Bytes, oneshot::Sender<Image>>,
}

impl Images {
    /// None.
    #[must_use]
    pub fn new(ours: String, limit: usize) -> Images {
        Images {
            ours,
            limit,
            lines: Vec::new(),
            bytes: 0,
            overflown: false,
            done: HashMap::new(),
            waiting: HashMap::new(),
        }
    }

    /// The next line of the slot. True: the transaction at hand is over.
    ///
    /// # Errors
    /// It is none of `test_decoding`'s.
    pub fn line(&mut self, text: &Bytes, now: Instant) -> Result<bool, String> {
        // Changes are not looked into before it is known that somebody wants them.
        if text.starts_with(b"table ") {
            self.bytes += text.len() + size_of::<Bytes>();
            self.overflown |= self.bytes > self.limit;
            if self.overflown {
                self.lines.clear();
            } else {
                self.lines.push(text.clone());
            }
            return Ok(false);
        }
        let unreadable = || format!("a line of test_decoding cannot be read: {}", String::from_utf8_lossy(text));
        match line(text).ok_or_else(unreadable)? {
            Line::Begin { .. } => self.begin(),
            Line::Commit | Line::Resolved => {
                self.begin();
                return Ok(true);
            }
            Line::Prepare { gid } => {
                if gid.starts_with(self.ours.as_bytes()) {
                    let image = self.image();
                    self.finish(gid, image, now);
                }
                self.begin();
                return Ok(true);
            }
            Line::Message { .. } | Line::Change(_) => {}
        }
        Ok(false)
    }

    fn begin(&mut self) {
        self.lines = Vec::new();
        (self.bytes, self.overflown) = (0, false);
    }

    fn image(&mut self) -> Image {
        if self.overflown {
            let what = format!("it has changed rows of more than {} bytes (image_limit)", self.limit);
            return Err(Refusal::Unsupported { what, hint: "Change fewer rows at once, or raise image_limit." });
        }
        let lines = std::mem::take(&mut self.lines);
        let change = |text: Bytes| match line(&text) {
            Some(Line::Change(change)) => Ok(change),
            _ => Err(Refusal::Lost(format!(
                "a line of test_decoding cannot be read: {}",
                String::from_utf8_lossy(&text)
            ))),
        };
        lines.into_iter().map(change).collect()
    }

    fn finish(&mut self, gid: Bytes, image: Image, now: Instant) {
        if let Some(waits) = self.waiting.remove(&gid) {
            // Whoever waited may have given up.
            let _ = waits.send(image);
        } else {
            self.done.insert(gid, (now, image));
        }
    }

    /// The image of this name, as soon as it is there.
    #[must_use]
    pub fn take(&mut self, gid: &[u8]) -> oneshot::Receiver<Image> {
        let (to, from) = oneshot::channel();
        match self.done.remove(gid) {
            Some((_, image)) => drop(to.send(image)),
            None => drop(self.waiting.insert(Bytes::copy_from_slice(gid), to)),
        }
        from
    }

    /// Drops what nobody has taken for so long, and forgets who has given up.
    pub fn tidy(&mut self, now: Instant, older: Duration) {
        self.done.retain(|_, (since, _)| now.duration_since(*since) < older);
        self.waiting.retain(|_, w| !w.is_closed());
    }

    /// The slot is lost: nobody waits for it any more.
    pub fn lose(&mut self) {
        self.done.clear();
        self.waiting.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(images: &mut Images, lines: &[&'static str]) {
        for l in lines {
            images.line(&Bytes::from_static(l.as_bytes()), Instant::now()).unwrap();
        }
    }

    #[test]
    fn an_image_is_had_whether_it_comes_before_or_after_it_is_asked_for() {
        let mut images = Images::new("us:".into(), 1000);
        let mut early = images.take(b"us:1");
        feed(&mut images, &["BEGIN 7", "table a.b: INSERT: x[integer]:1", "PREPARE TRANSACTION 'us:1', txid 7"]);
        assert_eq!(early.try_recv().unwrap().unwrap().len(), 1);
        feed(&mut images, &["BEGIN 8", "table a.b: INSERT: x[integer]:1", "COMMIT 8"]);
        feed(&mut images, &["BEGIN 9", "message: transactional: 1 prefix: p, sz: 1 content:x"]);
        feed(&mut images, &["PREPARE TRANSACTION 'us:2', txid 9", "COMMIT PREPARED 'us:1', txid 7"]);
        assert_eq!(images.take(b"us:2").try_recv().unwrap(), Ok(Vec::new()));
        feed(&mut images, &["BEGIN 9", "PREPARE TRANSACTION 'them:2', txid 9"]);
        assert!(images.done.is_empty());
        assert!(images.line(&Bytes::from_static(b"what"), Instant::now()).is_err());
    }

    #[test]
    fn what_exceeds_the_limit_is_not_kept_and_what_nobody_takes_is_dropped() {
        let mut images = Images::new("us:".into(), 100);
        feed(&mut images, &["BEGIN 7"]);
        for _ in 0..100 {
            feed(&mut images, &["table a.b: INSERT: x[integer]:1"]);
            assert!(images.lines.len() < 3);
        }
        feed(&mut images, &["PREPARE TRANSACTION 'us:1', txid 7"]);
        assert!(matches!(images.take(b"us:1").try_recv().unwrap(), Err(Refusal::Unsupported { .. })));
        feed(&mut images, &["BEGIN 8", "PREPARE TRANSACTION 'us:2', txid 8"]);
        images.tidy(Instant::now() + Duration::from_secs(9), Duration::from_secs(5));
        drop(images.take(b"us:2"));
        images.tidy(Instant::now(), Duration::from_secs(5));
        assert!(images.done.is_empty() && images.waiting.is_empty());
    }
}
