//! Looks at every byte of the journal and says what is there, what is damaged and what is lost. Shell; changes nothing, needs no lock, and
//! works beside a live writer, whose unfinished write then shows as the last segment's tail.

use super::disk::Disk;
use super::entry::{Content, le64};
use super::error::JournalError;
use super::header::{FileHeader, Kind, is_temporary, parse_name};
use super::read::{FileScan, Found, Open};
use super::report::{Gap, Report, SegmentReport, SnapshotReport};
use super::seq::Seq;

/// How often the directory is listed again when a file vanished between listing and reading.
const LISTINGS_MAX: usize = 4;

/// The report on the journal on `disk`.
pub fn verify<D: Disk>(disk: &D) -> Result<Report, JournalError> {
    let mut listing = 1;
    loop {
        let last_try = listing == LISTINGS_MAX;
        if let Some(report) = look(disk, last_try)? {
            return Ok(report);
        }
        listing += 1;
    }
}

/// `None` when a file vanished meanwhile: the next listing knows why. At the last try it is left out.
fn look<D: Disk>(disk: &D, last_try: bool) -> Result<Option<Report>, JournalError> {
    let mut names = disk
        .list()
        .map_err(|error| JournalError::from_io("listing the store's directory", &error))?;
    names.sort_unstable();
    let mut report = Report::default();
    let mut segments = Vec::new();
    for name in names {
        match parse_name(&name) {
            _ if is_temporary(&name) => report.temporary += 1,
            None => {}
            Some((kind, epoch, index)) => match (kind, FileScan::open(disk, &name)?) {
                (_, Open::Vanished) if last_try => {}
                (_, Open::Vanished) => return Ok(None),
                (Kind::Snapshot, Open::Scan(scan)) => {
                    report.snapshots.push(look_at_snapshot(name, *scan)?);
                }
                (Kind::Snapshot, Open::Unreadable { bytes }) => {
                    report.snapshots.push(SnapshotReport {
                        name,
                        covers: Seq::NONE,
                        entries: 0,
                        bytes,
                        complete: false,
                    });
                }
                (Kind::Segment, open) => {
                    let header = match &open {
                        Open::Scan(scan) => Some(scan.header),
                        _ => None,
                    };
                    let bytes = match open {
                        Open::Unreadable { bytes } => bytes,
                        _ => 0,
                    };
                    segments.push((
                        SegmentReport {
                            name,
                            epoch,
                            index,
                            bytes,
                            ..SegmentReport::default()
                        },
                        header,
                    ));
                }
            },
        }
    }
    let headers: Vec<Option<FileHeader>> = segments.iter().map(|(_, header)| *header).collect();
    let mut chain = Chain::new(report.covers());
    for (at, (segment, header)) in segments.into_iter().enumerate() {
        let Some(header) = header else {
            report.segments.push(SegmentReport {
                unreadable: true,
                ..segment
            });
            continue;
        };
        let limit = successor(&headers, at).map(|next| next.first);
        match FileScan::open(disk, &segment.name)? {
            Open::Scan(scan) => {
                chain.begin(&header, &mut report);
                let segment = look_at_segment(segment, *scan, limit, &mut chain)?;
                report.segments.push(segment);
            }
            _ if last_try => {}
            _ => return Ok(None),
        }
    }
    chain.finish(&mut report);
    Ok(Some(report))
}

/// The next readable segment of the same epoch: from its first number on it stands for whatever this one still holds.
fn successor(headers: &[Option<FileHeader>], at: usize) -> Option<FileHeader> {
    let own = headers[at]?;
    headers[at + 1..]
        .iter()
        .flatten()
        .next()
        .copied()
        .filter(|next| next.epoch == own.epoch)
}

/// For each readable segment of `report`, in order: its name, and the number from which on the next one stands for it.
pub(super) fn readable(segments: &[SegmentReport]) -> Vec<(String, Option<Seq>)> {
    let readable: Vec<&SegmentReport> = segments.iter().filter(|s| !s.unreadable).collect();
    let limit = |at: usize, epoch: u32| {
        readable
            .get(at + 1)
            .filter(|next| next.epoch == epoch)
            .map(|next| next.first)
    };
    readable
        .iter()
        .enumerate()
        .map(|(at, segment)| (segment.name.clone(), limit(at, segment.epoch)))
        .collect()
}

fn look_at_segment<D: Disk>(
    mut segment: SegmentReport,
    mut scan: FileScan<D>,
    limit: Option<Seq>,
    chain: &mut Chain,
) -> Result<SegmentReport, JournalError> {
    segment.head_damaged = scan.head_damaged;
    segment.first = scan.header.first;
    segment.prior = scan.header.prior;
    let mut sound = scan.offset();
    // Damage since the last entry: between entries, or the tail, as will show.
    let mut pending = 0;
    let mut over = false;
    while let Some(found) = scan.next()? {
        match found {
            Found::Entry(header) if !over && limit.is_none_or(|limit| header.seq < limit) => {
                segment.entries += 1;
                match header.content {
                    Content::Erased => segment.erased += 1,
                    Content::Lost => segment.lost += 1,
                    Content::Whole | Content::End => {}
                }
                segment.last = header.seq;
                segment.damaged_bytes += std::mem::take(&mut pending);
                sound = scan.offset();
                chain.entry(header.seq, header.opens_batch);
            }
            // Written once more in the next segment.
            Found::Entry(_) => over = true,
            Found::Damaged { bytes, seq } => {
                pending += bytes;
                if let Some(seq) = seq.filter(|seq| limit.is_none_or(|limit| *seq < limit)) {
                    chain.damaged(seq);
                }
            }
        }
    }
    segment.bytes = scan.offset();
    segment.tail_bytes = segment.bytes - sound;
    segment.unreadable_bytes = scan.unreadable_bytes;
    Ok(segment)
}

fn look_at_snapshot<D: Disk>(
    name: String,
    mut scan: FileScan<D>,
) -> Result<SnapshotReport, JournalError> {
    let (mut entries, mut damaged, mut ended) = (0_u64, false, false);
    while let Some(found) = scan.next()? {
        match found {
            // Whatever follows the end is no snapshot of ours.
            _ if ended => damaged = true,
            Found::Entry(header) if header.content == Content::End => {
                let body = &scan.bytes()[header.body_at()..];
                ended = body.len() == 8 && le64(body, 0) == entries;
                damaged |= !ended;
            }
            Found::Entry(_) => entries += 1,
            Found::Damaged { .. } => damaged = true,
        }
    }
    Ok(SnapshotReport {
        covers: scan.header.prior,
        entries,
        bytes: scan.offset(),
        complete: ended && !damaged && scan.header.snapshot,
        name,
    })
}

/// Follows the numbers through all segments and notes which are missing.
struct Chain {
    /// A complete snapshot stands for everything up to here.
    covers: Seq,
    /// The last whole entry.
    reached: Seq,
    /// The number that comes next in the epoch under way.
    expected: Option<Seq>,
    /// The last entry of which only the header is whole, while none follows it.
    damaged: Option<Seq>,
    gaps: Vec<Gap>,
    /// Those before are proven.
    settled: usize,
    last: Seq,
}

impl Chain {
    fn new(covers: Seq) -> Self {
        Self {
            covers,
            reached: Seq::NONE,
            expected: None,
            damaged: None,
            gaps: Vec::new(),
            settled: 0,
            last: Seq::NONE,
        }
    }

    /// A segment begins.
    fn begin(&mut self, header: &FileHeader, report: &mut Report) {
        match self.expected {
            Some(expected) if expected.epoch() == header.epoch => {
                // Each segment of a process begins after a commit, so everything before it was durable.
                self.damaged = None;
                self.gap_before(header.first);
                self.settle();
            }
            _ => {
                if header.prior > self.reached {
                    // The process that began it had found everything up to `prior` whole.
                    self.damaged = None;
                    let first = match self.reached.next() {
                        Some(next) if next.epoch() == header.prior.epoch() => next,
                        _ => Seq::first_of(header.prior.epoch()),
                    };
                    self.gaps.push(Gap {
                        first,
                        last: header.prior,
                        proven: true,
                    });
                } else {
                    self.damaged_to_gap();
                }
            }
        }
        self.expected = Some(header.first);
        self.flush(report);
    }

    /// A whole entry follows.
    fn entry(&mut self, seq: Seq, opens_batch: bool) {
        self.damaged = None;
        self.gap_before(seq);
        if opens_batch {
            // A commit begins only when the one before it is durable.
            self.settle();
        }
        self.expected = seq.next();
        self.reached = seq;
        self.last = seq;
    }

    fn damaged(&mut self, seq: Seq) {
        self.damaged = Some(seq);
    }

    fn gap_before(&mut self, seq: Seq) {
        if let Some(expected) = self.expected.filter(|expected| *expected < seq) {
            self.push(expected, seq.before());
        }
    }

    /// An entry at the end of an epoch of which the body is damaged.
    fn damaged_to_gap(&mut self) {
        if let (Some(seq), Some(expected)) = (self.damaged.take(), self.expected)
            && expected <= seq
        {
            self.push(expected, seq);
        }
    }

    fn push(&mut self, first: Seq, last: Seq) {
        self.gaps.push(Gap {
            first,
            last,
            proven: false,
        });
    }

    fn settle(&mut self) {
        let from = self.settled.min(self.gaps.len());
        for gap in &mut self.gaps[from..] {
            gap.proven = true;
        }
        self.settled = self.gaps.len();
    }

    /// Hands what is settled to the report: the gaps of one segment at most are kept here.
    fn flush(&mut self, report: &mut Report) {
        for mut gap in self.gaps.drain(..) {
            if gap.last > self.covers {
                if gap.first <= self.covers {
                    gap.first = self.covers.next().unwrap_or(gap.last);
                }
                report.add_gap(gap);
            }
        }
        self.settled = 0;
    }

    fn finish(mut self, report: &mut Report) {
        self.damaged_to_gap();
        report.last = self.last;
        self.flush(report);
    }
}
