//! Work on both cores: ranges, threads, and output buffers that several threads fill.
//!
//! Rows, columns and bytes of the matrix are independent, so work is split into contiguous ranges,
//! one thread each. A buffer that all of them fill is handed out in segments, one per range, and
//! put together again without a copy: so large outputs are neither zeroed first nor copied.
//!
//! Invariant: how work is split never changes a result.

use std::{ops::Range, thread};

use bytes::{Bytes, BytesMut};

/// Ranges start at multiples of this, so that threads don't share cache lines or vectors.
const ALIGN: usize = 64;

/// Splits `0 .. total` into at most `parts` (at least 1) ranges of about equal length, on
/// boundaries that suit bytes; there is always one.
pub(super) fn split(total: usize, parts: usize) -> Vec<Range<usize>> {
    let part = total.div_ceil(parts.max(1)).next_multiple_of(ALIGN);
    ranges(total, part)
}

/// Splits `0 .. total` items into at most `parts` (at least 1) ranges of about equal length.
pub(super) fn split_items(total: usize, parts: usize) -> Vec<Range<usize>> {
    ranges(total, total.div_ceil(parts.max(1)).max(1))
}

fn ranges(total: usize, part: usize) -> Vec<Range<usize>> {
    if total == 0 {
        return std::iter::once(0..0).collect();
    }
    (0..total).step_by(part).map(|start| start..total.min(start + part)).collect()
}

/// Runs `work` on every item, each on a thread of its own, and returns the results in order.
/// The last item runs on the caller's thread.
pub(super) fn run<T: Send, R: Send>(mut items: Vec<T>, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    let Some(last) = items.pop() else {
        return Vec::new();
    };
    thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> =
            items.into_iter().map(|item| scope.spawn(move || work(item))).collect();
        let last = work(last);
        let join = |thread: thread::ScopedJoinHandle<'_, R>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        threads.into_iter().map(join).chain(std::iter::once(last)).collect()
    })
}

/// Empty buffers for `count` outputs whose bytes lie in `ranges` (adjacent, from 0): per range
/// one segment of every output, with just enough room.
pub(super) fn segments(
    count: usize,
    ranges: &[Range<usize>],
) -> Vec<(Range<usize>, Vec<BytesMut>)> {
    let total = ranges.last().map_or(0, |range| range.end);
    let mut buffers: Vec<_> = (0..count).map(|_| BytesMut::with_capacity(total)).collect();
    let mut segments: Vec<_> = ranges
        .iter()
        .rev()
        .map(|range| {
            let tails = buffers.iter_mut().map(|buffer| buffer.split_off(range.start)).collect();
            (range.clone(), tails)
        })
        .collect();
    segments.reverse();
    segments
}

/// Puts filled segments together: the outputs.
pub(super) fn join_segments(filled: Vec<Vec<BytesMut>>) -> Vec<Bytes> {
    let mut filled = filled.into_iter();
    let mut outputs = filled.next().unwrap_or_default();
    for segments in filled {
        for (output, segment) in outputs.iter_mut().zip(segments) {
            output.unsplit(segment);
        }
    }
    outputs.into_iter().map(BytesMut::freeze).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_adjacent_and_cover_everything() {
        for total in [0, 1, 63, 64, 65, 1000, 4096] {
            for parts in [0, 1, 2, 3, 100] {
                for ranges in [split(total, parts), split_items(total, parts)] {
                    assert!((1..=parts.max(1)).contains(&ranges.len()), "{total} in {parts}");
                    let mut end = 0;
                    for range in ranges {
                        assert_eq!(range.start, end, "{total} in {parts}");
                        end = range.end;
                    }
                    assert_eq!(end, total, "{total} in {parts}");
                }
            }
        }
    }

    #[test]
    fn segments_filled_by_threads_make_whole_outputs_without_a_copy() {
        let ranges = split(1000, 3);
        let segments = segments(2, &ranges);
        let places: Vec<_> =
            segments[0].1.iter().map(|segment| segment.as_ptr() as usize).collect();
        let filled = run(segments, |(range, mut segments)| {
            for (i, segment) in segments.iter_mut().enumerate() {
                segment.extend(range.clone().map(|x| u8::try_from((x + i) % 251).unwrap()));
            }
            segments
        });
        for (i, output) in join_segments(filled).into_iter().enumerate() {
            let expected: Vec<_> =
                (0..1000).map(|x: usize| u8::try_from((x + i) % 251).unwrap()).collect();
            assert_eq!(output, expected);
            assert_eq!(output.as_ptr() as usize, places[i]);
        }
    }

    #[test]
    fn results_come_in_order() {
        assert_eq!(run((0..5).collect(), |i: u32| i * i), [0, 1, 4, 9, 16]);
        assert_eq!(run(Vec::new(), |i: u32| i), Vec::<u32>::new());
    }
}
