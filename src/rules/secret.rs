//! Which texts may be secrets.
//!
//! A gateway signs for everyone behind it, so a secret that was copied from a page, typed by hand or left
//! at its placeholder stops the start. Asked by `config`, which can name the place, and by `credential`,
//! which lets no weak key in whoever brings it.

/// The fewest bytes of a secret that is no token key.
pub const LEAST_BYTES: usize = 32;

/// Secrets that documents show: whoever reads the page can sign with them.
const SAMPLES: &[&str] = &[
    "your-secret-key",
    "your-development-secret",
    "your-super-secret",
    "your-jwt-secret",
    "your-production-secret",
    "insert-secret",
    "your-256-bit-secret",
    "secret-key-here",
    "change-me",
    "changeme",
    "change-this",
    "replace-me",
    "replace-this",
    "insert-your",
    "my-secret",
    "example-secret",
    "placeholder",
    "super-secret",
];

/// Why a text is no secret. Never holds the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Weakness {
    /// Nothing there.
    #[error("it is empty")]
    Empty,
    /// Too few bytes to be out of reach of guessing offline.
    #[error("it has {bytes} bytes and needs {least}")]
    Short {
        /// How many it has.
        bytes: usize,
        /// How many it needs.
        least: usize,
    },
    /// A sample from a document, or a placeholder.
    #[error("it is a sample from a document: everyone knows it")]
    Sample,
    /// Long, but of little information.
    #[error("it repeats itself or counts up, so it is long and still easy to guess")]
    Repetitive,
}

/// Whether a text can serve as a symmetric secret of at least `least` bytes.
pub fn judge(text: &str, least: usize) -> Result<(), Weakness> {
    let bytes = text.as_bytes();
    if bytes.is_empty() {
        return Err(Weakness::Empty);
    }
    let plain = text.to_ascii_lowercase().replace(['_', ' '], "-");
    if SAMPLES.iter().any(|sample| plain.contains(sample)) {
        return Err(Weakness::Sample);
    }
    if bytes.len() < least {
        return Err(Weakness::Short { bytes: bytes.len(), least });
    }
    if is_repetitive(bytes) { Err(Weakness::Repetitive) } else { Ok(()) }
}

/// How many bytes an HMAC key needs: its hash's length (RFC 7518 section 3.2). `None`: not an HMAC.
pub fn hmac_bytes(algorithm: &str) -> Option<usize> {
    match algorithm {
        "HS256" => Some(32),
        "HS384" => Some(48),
        "HS512" => Some(64),
        _ => None,
    }
}

/// Too few different bytes, a short unit over and over, or mostly steps of one (`abcdef…`, `012345…`).
/// Random text of 32 bytes, hexadecimal too, fails less than once in 10^10.
fn is_repetitive(bytes: &[u8]) -> bool {
    let mut seen = [false; 256];
    for byte in bytes {
        seen[usize::from(*byte)] = true;
    }
    let different = seen.iter().filter(|seen| **seen).count();
    let repeats = (1..=bytes.len() / 2).any(|unit| bytes.iter().zip(&bytes[unit..]).all(|(one, next)| one == next));
    let steps = bytes.windows(2).filter(|pair| pair[1].wrapping_sub(pair[0]).wrapping_add(1) <= 2).count();
    different < 6 || repeats || steps * 3 > bytes.len() * 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sample_secrets_of_the_documents_are_refused_however_long() {
        for sample in [
            "your-secret-key-here",
            "your-development-secret-key",
            "YOUR_SECRET_KEY_HERE_0123456789abcdef0123456789",
            "please-changeme-8f7d6e5c4b3a29181706f5e4d3c2b1a0",
            "your-256-bit-secret-8f7d6e5c4b3a29181706f5e4d3c2b",
        ] {
            assert_eq!(judge(sample, 32), Err(Weakness::Sample), "{sample}");
        }
    }

    #[test]
    fn thirty_two_bytes_are_enough_and_thirty_one_are_not() {
        let good = "kX9vQ2mZ7tR4wY8pL1nB6cJ3hG5fD0sA";
        assert_eq!(judge(good, 32), Ok(()));
        assert_eq!(judge(&good[..31], 32), Err(Weakness::Short { bytes: 31, least: 32 }));
        assert_eq!(judge("", 32), Err(Weakness::Empty));
        assert_eq!(judge(good, hmac_bytes("HS384").unwrap()), Err(Weakness::Short { bytes: 32, least: 48 }));
    }

    #[test]
    fn long_secrets_without_information_are_refused() {
        for weak in [
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "abababababababababababababababababababab",
            "password1password1password1password1pass",
            "abcdefghijklmnopqrstuvwxyz0123456789",
            "01234567890123456789012345678901",
            "correct horse correct horse correct horse",
        ] {
            assert_eq!(judge(weak, 32), Err(Weakness::Repetitive), "{weak}");
        }
        // Hexadecimal of 16 random bytes, and of 32.
        assert_eq!(judge("9f86d081884c7d659a2feaa0c55ad015", 32), Ok(()));
        assert_eq!(judge("9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", 64), Ok(()));
    }
}
