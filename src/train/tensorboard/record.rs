//! The framing of event files: TFRecord, which is length, checksum of the length, bytes, checksum of the bytes.
//!
//! Lengths are u64 and checksums u32, both little-endian; a checksum is CRC-32C, rotated and shifted, so that one of
//! bytes that hold a checksum is not trivial (tensorflow/core/lib/io/record_writer.h).

/// CRC-32C (Castagnoli) of each byte.
const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            // The polynomial 0x1EDC6F41, its bits reversed.
            crc = (crc >> 1) ^ if crc & 1 == 1 { 0x82F6_3B78 } else { 0 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

/// CRC-32C of `bytes`, of RFC 3720, appendix B.4.
pub fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, &byte: &u8| (crc >> 8) ^ TABLE[((crc ^ u32::from(byte)) & 0xFF) as usize];
    !bytes.iter().fold(!0, step)
}

/// A checksum as records have it.
fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xA282_EAD8)
}

/// `bytes` as a record.
pub fn framed(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + 16);
    let length = (bytes.len() as u64).to_le_bytes();
    out.extend(length);
    out.extend(masked(crc32c(&length)).to_le_bytes());
    out.extend(bytes);
    out.extend(masked(crc32c(bytes)).to_le_bytes());
    out
}

/// The bytes of the record that `file` begins with and what follows it; `None` where it is cut off or damaged.
pub fn first(file: &[u8]) -> Option<(&[u8], &[u8])> {
    let checksum = |at: &[u8]| Some(u32::from_le_bytes(at.get(..4)?.try_into().ok()?));
    let (length, rest) = file.split_at_checked(8)?;
    if checksum(rest)? != masked(crc32c(length)) {
        return None;
    }
    let length = usize::try_from(u64::from_le_bytes(length.try_into().ok()?)).ok()?;
    let (bytes, rest) = rest[4..].split_at_checked(length)?;
    (checksum(rest)? == masked(crc32c(bytes))).then_some((bytes, &rest[4..]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 3720, appendix B.4, and the check value of the catalogue of CRC algorithms.
    #[test]
    fn crc32c_known_answers() {
        let ascending: Vec<u8> = (0..32).collect();
        assert_eq!(crc32c(&[0; 32]), 0x8A91_36AA);
        assert_eq!(crc32c(&[0xFF; 32]), 0x62A8_AB43);
        assert_eq!(crc32c(&ascending), 0x46DD_794E);
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
    }

    proptest! {
        /// Records come back one by one, and one that is cut off or has a wrong bit does not.
        #[test]
        fn records_come_back(all in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..5),
                             bit in any::<prop::sample::Index>(), cut in any::<prop::sample::Index>()) {
            let mut file: Vec<u8> = all.iter().flat_map(|bytes| framed(bytes)).collect();
            let mut rest = &file[..];
            for bytes in &all {
                let (found, after) = first(rest).unwrap();
                prop_assert_eq!(found, &bytes[..]);
                rest = after;
            }
            prop_assert!(rest.is_empty());
            let whole = all[0].len() + 16;
            prop_assert!(first(&file[..cut.index(whole)]).is_none());
            let bit = bit.index(whole * 8);
            file[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(first(&file[..whole]).is_none());
        }
    }
}
