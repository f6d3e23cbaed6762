//! What tells one plugin file from every other.

use std::fmt;

use sha2::{Digest as _, Sha256};

/// The SHA-256 of a plugin's file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of a file's bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// `sha256:` and 64 hexadecimal digits; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix("sha256:").filter(|digits| digits.is_ascii())?;
        let bytes: Option<Vec<u8>> = digits
            .as_bytes()
            .chunks(2)
            .map(|pair| match pair {
                [high, low] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                    u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()
                }
                _ => None,
            })
            .collect();
        Some(Self(bytes?.try_into().ok()?))
    }

    /// Its first twelve hexadecimal digits: enough to tell versions apart in a table.
    pub fn short(&self) -> String {
        hex(&self.0[..6])
    }
}

/// `sha256:` and 64 hexadecimal digits, as container registries write it.
impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", hex(&self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OF_ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn a_digest_reads_as_sha256sum_prints_it() {
        let digest = Digest::of(b"abc");
        assert_eq!(digest.to_string(), format!("sha256:{OF_ABC}"));
        assert_eq!(digest.short(), "ba7816bf8f01");
    }

    #[test]
    fn a_digest_is_read_back_and_nothing_else_is() {
        let text = format!("sha256:{OF_ABC}");
        assert_eq!(Digest::parse(&text), Some(Digest::of(b"abc")));
        assert_eq!(Digest::parse(&text.to_uppercase()), None);
        for wrong in ["", "sha256:", OF_ABC, &text[..70], &format!("{text}0"), "sha256:+f"] {
            assert_eq!(Digest::parse(wrong), None, "{wrong}");
        }
    }
}
