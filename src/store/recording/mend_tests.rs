use super::super::render::tests::file;
use super::*;

struct Left {
    dir: tempfile::TempDir,
}

impl Left {
    fn new(caller: Option<&[u8]>, agent: Option<&[u8]>) -> Self {
        let left = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        for (name, bytes) in [("c", caller), ("a", agent)] {
            if let Some(bytes) = bytes {
                std::fs::write(left.dir.path().join(name), bytes).unwrap();
            }
        }
        left
    }

    fn mend(&self, known_ms: u64) -> Mended {
        let path = |name| self.dir.path().join(name);
        mend(&path("c"), &path("a"), known_ms, 42).unwrap()
    }

    fn index(&self, name: &str) -> Index {
        let file = File::open(self.dir.path().join(name)).unwrap();
        Index::scan(&file, true).unwrap()
    }
}

#[test]
fn a_crash_at_any_byte_leaves_a_readable_recording() {
    let caller = file(
        Side::Caller,
        None,
        &[(0, vec![1; 800]), (800, vec![2; 800])],
    );
    let agent = file(Side::Agent, None, &[(400, vec![3; 8_000])]);
    for end in (0..=caller.len()).step_by(13) {
        let left = Left::new(Some(&caller[..end]), Some(&agent));
        let mended = left.mend(0);
        let (c, a) = (left.index("c"), left.index("a"));
        assert_eq!(c.head.unwrap().length, Some(mended.length), "{end}");
        assert_eq!(c.end(), mended.length);
        // The agent's audio that was sent ahead is not heard any more.
        assert!(a.end() <= mended.length);
        assert_eq!(a.head.unwrap().length, Some(mended.length));
        assert_eq!(c.damaged + a.damaged, 0);
        // Again: nothing is left to do.
        let again = left.mend(9_999);
        assert_eq!((again.was_whole, again.length), (true, mended.length));
    }
}

#[test]
fn what_else_is_known_makes_the_call_longer_and_never_shorter() {
    let caller = file(Side::Caller, None, &[(0, vec![1; 800])]);
    let agent = file(Side::Agent, None, &[(400, vec![3; 8_000])]);
    assert_eq!(Left::new(Some(&caller), Some(&agent)).mend(50).length, 800);
    let left = Left::new(Some(&caller), Some(&agent));
    assert_eq!(left.mend(500).length, 4_000);
    assert_eq!(left.index("a").end(), 4_000);
    // Without the caller's file only what is known counts.
    let left = Left::new(None, Some(&agent));
    assert_eq!(left.mend(100).length, 800);
    assert_eq!(left.index("a").end(), 800);
    assert_eq!(Left::new(None, None).mend(100).length, 800);
}

#[test]
fn a_whole_recording_is_not_touched() {
    let caller = file(Side::Caller, Some(900), &[(0, vec![1; 800])]);
    let agent = file(Side::Agent, Some(900), &[(400, vec![3; 100])]);
    let left = Left::new(Some(&caller), Some(&agent));
    let mended = left.mend(0);
    assert_eq!((mended.was_whole, mended.length), (true, 900));
    assert_eq!(std::fs::read(left.dir.path().join("c")).unwrap(), caller);
    assert_eq!(std::fs::read(left.dir.path().join("a")).unwrap(), agent);
}

#[test]
fn a_crash_between_the_two_heads_is_mended_to_the_same() {
    let caller = file(Side::Caller, Some(800), &[(0, vec![1; 800])]);
    let agent = file(Side::Agent, None, &[(400, vec![3; 8_000])]);
    let left = Left::new(Some(&caller), Some(&agent));
    assert_eq!(left.mend(0).length, 800);
    assert_eq!(left.index("a").end(), 800);
}

#[test]
fn a_damaged_head_is_written_anew() {
    let mut caller = file(Side::Caller, None, &[(0, vec![1; 800])]);
    caller[20] ^= 1;
    let left = Left::new(Some(&caller), None);
    assert_eq!(left.mend(0).length, 800);
    let head = left.index("c").head.unwrap();
    assert_eq!((head.began_unix_ms, head.side), (42, Side::Caller));
}

#[test]
fn the_checksum_is_of_the_bytes_of_all_files() {
    let left = Left::new(Some(b"ab"), Some(b"c"));
    let path = |name| left.dir.path().join(name);
    // SHA-256 of "abc" (FIPS 180-2, appendix B.1).
    assert_eq!(
        checksum(&[&path("c"), &path("missing"), &path("a")]).unwrap(),
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    );
}
