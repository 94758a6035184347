//! API keys: how their text is made, recognized and hashed.
//!
//! `<prefix><33 random base62 digits><6 base62 digits of CRC-32>`. The checksum is no secret and protects
//! nothing; it lets a mistyped or truncated key be refused without a look-up. The store sees only a keyed
//! hash. Used by [`super::authenticate`] and by the native key operations.

use aws_lc_rs::hmac;

use crate::model::api_key::KeyHash;
use crate::model::entropy::Entropy;
use crate::model::secret::Secret;

const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// 33 × log2(62) = 196 bits.
const RANDOM: usize = 33;
/// 62^6 > 2^32.
const CHECKSUM: usize = 6;

/// A new key's text.
pub fn mint(prefix: &str, entropy: &dyn Entropy) -> Secret {
    let mut text = String::with_capacity(prefix.len() + RANDOM + CHECKSUM);
    text.push_str(prefix);
    while text.len() < prefix.len() + RANDOM {
        let mut bytes = [0_u8; 48];
        entropy.fill(&mut bytes);
        // 248 = 4 × 62: taking more would make some digits likelier than others.
        let fair = bytes.iter().filter(|byte| **byte < 248).map(|byte| digit(u32::from(*byte)));
        let missing = prefix.len() + RANDOM - text.len();
        text.extend(fair.take(missing));
    }
    let sum = checksum(text.as_bytes());
    text.extend(sum.map(char::from));
    text.into()
}

/// Whether `text` could be a key of ours: prefix, length, alphabet, checksum.
pub fn is_shaped(prefix: &str, text: &str) -> bool {
    let Some(rest) = text.strip_prefix(prefix) else { return false };
    if rest.len() != RANDOM + CHECKSUM || !rest.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return false;
    }
    let (body, sum) = text.as_bytes().split_at(text.len() - CHECKSUM);
    checksum(body) == sum
}

/// What the store looks a key up by.
pub fn hash(pepper: &hmac::Key, text: &str) -> KeyHash {
    let tag = hmac::sign(pepper, text.as_bytes());
    let mut bytes = [0_u8; 32];
    bytes.copy_from_slice(&tag.as_ref()[..32]);
    KeyHash(bytes)
}

fn checksum(body: &[u8]) -> [u8; CHECKSUM] {
    let mut rest = crc32fast::hash(body);
    let mut digits = [0_u8; CHECKSUM];
    for place in digits.iter_mut().rev() {
        *place = DIGITS[(rest % 62) as usize];
        rest /= 62;
    }
    digits
}

fn digit(value: u32) -> char {
    char::from(DIGITS[(value % 62) as usize])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::entropy::TestEntropy;

    #[test]
    fn a_minted_key_has_the_shape_and_no_two_are_alike() {
        let entropy = TestEntropy::new(7);
        let (one, two) = (mint("vantage_", &entropy), mint("vantage_", &entropy));
        assert!(one != two && is_shaped("vantage_", one.expose()) && is_shaped("vantage_", two.expose()));
        assert_eq!(one.expose().len(), "vantage_".len() + 39);
    }

    #[test]
    fn whatever_is_changed_added_or_cut_off_is_refused_without_a_look_up() {
        let key = mint("vantage_", &TestEntropy::new(7));
        let text = key.expose();
        for at in 0..text.len() {
            let mut bytes = text.as_bytes().to_vec();
            bytes[at] = if bytes[at] == b'x' { b'y' } else { b'x' };
            assert!(!is_shaped("vantage_", std::str::from_utf8(&bytes).unwrap()), "changed at {at}");
            assert!(!is_shaped("vantage_", &text[..at]), "cut at {at}");
        }
        for junk in ["x", "0", " ", ".", "junk"] {
            assert!(!is_shaped("vantage_", &format!("{text}{junk}")));
        }
        assert!(!is_shaped("other_", text));
        assert!(!is_shaped("vantage_", &text.replace("vantage_", "vantage_é")));
    }

    #[test]
    fn digits_are_fair() {
        let entropy = TestEntropy::new(1);
        let mut counts = [0_u32; 128];
        for _ in 0..2000 {
            for byte in mint("", &entropy).expose().bytes().take(RANDOM) {
                counts[usize::from(byte)] += 1;
            }
        }
        // 66,000 draws over 62 digits: 1,064 each, deviation 32.
        assert!(DIGITS.iter().all(|digit| (850..1300).contains(&counts[usize::from(*digit)])));
    }

    #[test]
    fn the_hash_depends_on_the_pepper_and_on_every_byte() {
        let pepper = |text: &[u8]| hmac::Key::new(hmac::HMAC_SHA256, text);
        let one = hash(&pepper(&[1; 32]), "vantage_abc");
        assert_eq!(one, hash(&pepper(&[1; 32]), "vantage_abc"));
        assert_ne!(one, hash(&pepper(&[2; 32]), "vantage_abc"));
        assert_ne!(one, hash(&pepper(&[1; 32]), "vantage_abd"));
    }
}
