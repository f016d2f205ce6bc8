//! Compares 16 bytes with one instruction.
//!
//! Input: 64 bytes. Output: one bit for each. Thread: any. Nothing can fail.

#![allow(unsafe_code, reason = "instructions of the processor")]

use std::arch::x86_64::{_mm_cmpeq_epi8, _mm_loadu_si128, _mm_movemask_epi8, _mm_set1_epi8};

/// Which of the bytes are `wanted`: the lowest bit stands for the first byte.
///
/// Uses PCMPEQB and PMOVMSKB of SSE2 (Intel's manual, 2B), which every x86-64 has.
#[inline]
#[must_use]
pub(crate) fn equal(bytes: &[u8; 64], wanted: u8) -> u64 {
    // SAFETY: SSE2 is part of every x86-64 processor.
    unsafe { equal_by_sse2(bytes, wanted) }
}

#[inline]
#[target_feature(enable = "sse2")]
fn equal_by_sse2(bytes: &[u8; 64], wanted: u8) -> u64 {
    let wanted = _mm_set1_epi8(wanted as i8);
    let mut found = 0;
    for (index, part) in bytes.as_chunks::<16>().0.iter().enumerate() {
        // SAFETY: the load asks for no alignment, and is of the 16 bytes of `part`.
        let part = unsafe { _mm_loadu_si128(part.as_ptr().cast()) };
        let equal = _mm_movemask_epi8(_mm_cmpeq_epi8(part, wanted)) as u16;
        found |= u64::from(equal) << (16 * index);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn each_byte_has_its_bit(bytes: [u8; 64], wanted: u8, places: u64) {
            let bytes: [u8; 64] = std::array::from_fn(|at| if places >> at & 1 == 1 { wanted } else { bytes[at] });
            let expected = (0..64).filter(|at| bytes[*at] == wanted).fold(0, |all, at| all | 1 << at);
            prop_assert_eq!(equal(&bytes, wanted), expected);
        }
    }
}
