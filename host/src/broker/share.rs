//! Which host owns which shard: a function of who is alive. Pure.

use sha2::{Digest, Sha256};

/// The member that should own each shard, by its place in `members`; all members alike come to the same.
///
/// Each shard goes to the member that scores highest on it (rendezvous hashing), so that
/// few shards move when one comes or goes; but all have the same number of them, or one more.
/// The stream's name has a part in it, so that not all streams are the same member's.
pub(super) fn owners(stream: &str, shards: usize, members: &[String]) -> Vec<usize> {
    let Some(fewest) = shards.checked_div(members.len()) else { return Vec::new() };
    let mut larger_left = shards % members.len();
    let mut owned = vec![0; members.len()];
    let mut owners = Vec::with_capacity(shards);
    for shard in 0..shards {
        let mut ranked: Vec<usize> = (0..members.len()).collect();
        ranked.sort_by_cached_key(|member| {
            std::cmp::Reverse(score(stream, shard, &members[*member]))
        });
        let room = |member: &usize| {
            owned[*member] < fewest || (owned[*member] == fewest && larger_left > 0)
        };
        let owner = ranked.into_iter().find(room).unwrap_or_default();
        larger_left -= usize::from(owned[owner] == fewest);
        owned[owner] += 1;
        owners.push(owner);
    }
    owners
}

fn score(stream: &str, shard: usize, member: &str) -> [u8; 32] {
    let name = format!("{stream}\0{shard}\0{member}");
    Sha256::digest(name).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn members(count: usize) -> Vec<String> {
        (0..count).map(|n| format!("host-{n}")).collect()
    }

    #[test]
    fn without_members_nobody_owns_anything() {
        assert_eq!(owners("s", 4, &[]), [0; 0]);
    }

    #[test]
    fn streams_that_are_not_sharded_are_spread_as_well() {
        let of = |stream: usize| owners(&format!("stream-{stream}"), 1, &members(2))[0];
        let first = (0..64).filter(|stream| of(*stream) == 0).count();
        assert!((16..48).contains(&first), "{first} of 64 are the first member's");
    }

    proptest! {
        #[test]
        fn everyone_has_as_many_or_one_more(shards in 1usize..64, count in 1usize..9) {
            let owners = owners("s", shards, &members(count));
            prop_assert_eq!(owners.len(), shards);
            for member in 0..count {
                let owned = owners.iter().filter(|owner| **owner == member).count();
                prop_assert!(owned == shards / count || owned == shards.div_ceil(count));
            }
        }
    }

    #[test]
    fn few_shards_move_when_one_joins() {
        let before = owners("s", 64, &members(3));
        let after = owners("s", 64, &members(4));
        let moved = before.iter().zip(&after).filter(|(before, after)| before != after).count();
        assert!(moved < 32, "{moved} of 64 moved");
    }
}
