//! Bytes as text: how checksums and fingerprints are written.

/// Two lower-case hexadecimal digits a byte, the first byte first.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
