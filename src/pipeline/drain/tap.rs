//! What the reader does with a batch before the disk, without thread or disk: for counting its instructions.
//!
//! Enters: a batch. Leaves: how many events it has. One thread. Nothing can fail.

use super::census::{Census, Sizes};
use crate::pipeline::buffer::Batch;

/// The reader's look at batches, with its memory for sizes.
#[derive(Debug, Default)]
pub struct CensusTap(Sizes);

impl CensusTap {
    /// Walks a batch as the reader does where statistics are on: its events, and the checksum of its content.
    pub fn take(&mut self, batch: &Batch<'_>) -> (u64, u32) {
        let census = Census::take(batch, Some(&mut self.0));
        (census.events, census.content_crc)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::buffer::{DoubleBuffer, Options};
    use crate::pipeline::record::{Event, Source, encode_source};

    #[test]
    fn a_batch_is_counted_and_its_checksum_is_that_of_its_bytes() {
        let options = Options { capacity_bytes: 4096, chunk_bytes: 1024, writers_max: 1 };
        let (buffer, mut reader) = DoubleBuffer::new(&options).unwrap();
        let mut writer = buffer.writer().unwrap();
        let mut all = Vec::new();
        encode_source(&mut all, 0, 1, &Source::default());
        writer.append(&all).unwrap();
        for _ in 0..20 {
            let mut bytes = Vec::new();
            Event { payload: b"a hundred bytes, or nearly as many", ..Event::default() }.encode(&mut bytes);
            writer.append(&bytes).unwrap();
            all.extend_from_slice(&bytes);
        }
        assert_eq!(CensusTap::default().take(&reader.swap()), (20, crc32c::crc32c(&all)));
    }
}
