//! Which addresses are public: anybody's to call, and nobody's own network.
//!
//! By the registries of special-purpose addresses (RFC 6890 and its successors).
//! An address that holds another one is judged by that.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What is not public of IPv4: the first address of each block, and the bits that its addresses share.
const BLOCKS_V4: [([u8; 4], u32); 16] = [
    ([0, 0, 0, 0], 8),     // "this" network; Linux takes 0.0.0.0 for the machine itself
    ([10, 0, 0, 0], 8),    // private
    ([100, 64, 0, 0], 10), // carriers' networks
    ([127, 0, 0, 0], 8),   // the machine itself
    ([169, 254, 0, 0], 16), // link-local; clouds answer with credentials here
    ([172, 16, 0, 0], 12), // private
    ([192, 0, 0, 0], 24),  // protocols
    ([192, 0, 2, 0], 24),  // documentation
    ([192, 31, 196, 0], 24), // AS112
    ([192, 88, 99, 0], 24), // relays of 6to4
    ([192, 168, 0, 0], 16), // private
    ([198, 18, 0, 0], 15), // benchmarks
    ([198, 51, 100, 0], 24), // documentation
    ([203, 0, 113, 0], 24), // documentation
    ([224, 0, 0, 0], 4),   // multicast
    ([240, 0, 0, 0], 4),   // reserved, and broadcast
];

/// What is public of IPv6 is within 2000::/3, and in none of these.
const BLOCKS_V6: [([u16; 8], u32); 3] = [
    ([0x2001, 0, 0, 0, 0, 0, 0, 0], 23), // protocols, Teredo among them
    ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32), // documentation
    ([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20), // documentation
];

const GLOBAL_UNICAST: ([u16; 8], u32) = ([0x2000, 0, 0, 0, 0, 0, 0, 0], 3);
const SIX_TO_FOUR: ([u16; 8], u32) = ([0x2002, 0, 0, 0, 0, 0, 0, 0], 16);
const NAT64: ([u16; 8], u32) = ([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96);

/// Whether an address is public.
pub(super) fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => match held(address) {
            Some(held) => is_public_v4(held),
            None => is_public_v6(address),
        },
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    !BLOCKS_V4.iter().any(|(first, bits)| {
        let beyond = 32 - bits;
        address.to_bits() >> beyond == Ipv4Addr::from(*first).to_bits() >> beyond
    })
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    within(address, GLOBAL_UNICAST) && !BLOCKS_V6.iter().any(|block| within(address, *block))
}

fn within(address: Ipv6Addr, (first, bits): ([u16; 8], u32)) -> bool {
    let beyond = 128 - bits;
    address.to_bits() >> beyond == Ipv6Addr::from(first).to_bits() >> beyond
}

/// The IPv4 address that a gateway would send to in place of this one.
fn held(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let bytes = address.octets();
    let at = match () {
        () if within(address, SIX_TO_FOUR) => 2,
        () if within(address, NAT64) => 12,
        () => return None,
    };
    Some(Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_public_is_known_in_every_form() {
        let own = [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "10.255.255.255",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.170",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.7",
            "203.0.113.7",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:0:10.0.0.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b::169.254.169.254",
            "64:ff9b:1::8.8.8.8",
            "100::1",
            "2001::1",
            "2001:2::1",
            "2001:10::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "2002:a9fe:a9fe::1",
            "2002:c0a8:101::1",
            "3fff::1",
            "5f00::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "ff02::1",
        ];
        for address in own {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn what_is_beside_it_is_public() {
        let public = [
            "1.1.1.1",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "192.167.255.255",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
            "2001:200::1",
            "2002:808:808::1",
            "2606:4700:4700::1111",
            "2a00:1450::1",
        ];
        for address in public {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
    }
}
