use proptest::prelude::*;

use super::*;

const SIZE: usize = 512;

/// A leaf of keys and values; the flag says that the value is a bucket.
fn leaf(id: u64, elements: &[(bool, &[u8], &[u8])]) -> Vec<u8> {
    let mut page = header(id, 2, elements.len());
    let mut data = Vec::new();
    for (index, (bucket, key, value)) in elements.iter().enumerate() {
        let at = (elements.len() - index) * page::ELEMENT + data.len();
        for number in [u32::from(*bucket), at as u32, key.len() as u32, value.len() as u32] {
            page.extend(number.to_le_bytes());
        }
        data.extend([*key, *value].concat());
    }
    page.extend(data);
    page
}

fn branch(id: u64, children: &[u64]) -> Vec<u8> {
    let mut page = header(id, 1, children.len());
    for child in children {
        page.extend([0; 8]);
        page.extend(child.to_le_bytes());
    }
    page
}

fn header(id: u64, flags: u16, count: usize) -> Vec<u8> {
    let mut page = id.to_le_bytes().to_vec();
    page.extend(flags.to_le_bytes());
    page.extend((count as u16).to_le_bytes());
    page.extend([0; 4]);
    page
}

fn meta(id: u64, root: u64, transaction: u64) -> Vec<u8> {
    let mut meta = Vec::new();
    for number in [page::MAGIC, 2, SIZE as u32, 0] {
        meta.extend(number.to_le_bytes());
    }
    for number in [root, 0, 2, 9, transaction] {
        meta.extend(number.to_le_bytes());
    }
    let sum = page::fnv(&meta);
    meta.extend(sum.to_le_bytes());
    [header(id, 4, 0), meta].concat()
}

fn bucket(root: u64, inline: &[u8]) -> Vec<u8> {
    [&root.to_le_bytes(), &[0; 8], inline].concat()
}

/// Pages in order; a page that is longer than one overflows.
fn file(pages: &[Vec<u8>]) -> Vec<u8> {
    let mut file = Vec::new();
    for page in pages {
        let mut page = page.clone();
        let overflow = page.len().div_ceil(SIZE).max(1) - 1;
        page[12..16].copy_from_slice(&(overflow as u32).to_le_bytes());
        page.resize((overflow + 1) * SIZE, 0);
        file.extend(page);
    }
    file
}

fn read(bytes: &[u8]) -> (Vec<String>, Result<(), BboltError>) {
    let mut seen = Vec::new();
    let result = visit(bytes, &mut |path, key, value| {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let path: Vec<_> = path.iter().map(|name| text(name)).collect();
        seen.push(format!(
            "{}/{}={}",
            path.join("/"),
            text(key),
            text(&value[..value.len().min(9)])
        ));
    });
    (seen, result)
}

/// A branch above two leaves, a bucket on pages of its own, one inline, and a value that overflows.
fn sample() -> Vec<u8> {
    let inline = leaf(0, &[(false, b"group", b"member")]);
    let long = vec![b'x'; 3 * SIZE];
    file(&[
        meta(0, 2, 7),
        meta(1, 9, 6),
        branch(2, &[3, 4]),
        leaf(3, &[(true, b"rule_set", &bucket(5, b""))]),
        leaf(4, &[(true, b"selected", &bucket(0, &inline)), (false, b"top", b"level")]),
        leaf(5, &[(false, b"a", &long), (false, b"b", b"")]),
    ])
}

#[test]
fn reads_branches_buckets_and_long_values() {
    let (seen, result) = read(&sample());
    result.unwrap();
    assert_eq!(
        seen,
        ["rule_set/a=xxxxxxxxx", "rule_set/b=", "selected/group=member", "/top=level"]
    );
}

#[test]
fn the_last_valid_meta_page_counts() {
    let new = leaf(3, &[(false, b"new", b"")]);
    let pages = |first: u64, second: u64| {
        let old = leaf(2, &[(false, b"old", b"")]);
        file(&[meta(0, 2, first), meta(1, 3, second), old, new.clone()])
    };
    assert_eq!(read(&pages(8, 7)).0, ["/old="]);
    assert_eq!(read(&pages(8, 9)).0, ["/new="]);
    // A torn write of the one leaves the other.
    let mut torn = pages(9, 8);
    torn[20] ^= 1;
    assert_eq!(read(&torn).0, ["/new="]);
    torn[SIZE + 40] ^= 1;
    assert_eq!(read(&torn), (vec![], Err(BboltError::Meta)));
    assert_eq!(read(b""), (vec![], Err(BboltError::Meta)));
}

#[test]
fn cycles_and_crowds_end() {
    let cycle = file(&[meta(0, 2, 1), meta(1, 2, 0), branch(2, &[3, 2]), leaf(3, &[])]);
    assert_eq!(read(&cycle).1, Err(BboltError::Twice(2)));
    let beyond = file(&[meta(0, 2, 1), meta(1, 2, 0), branch(2, &[u64::MAX])]);
    assert_eq!(read(&beyond).1, Err(BboltError::Bounds(u64::MAX)));
    // Buckets in buckets in buckets.
    let mut deep = leaf(0, &[]);
    for _ in 0..9 {
        deep = leaf(0, &[(true, b"b", &bucket(0, &deep))]);
    }
    deep[..8].copy_from_slice(&2_u64.to_le_bytes());
    assert_eq!(read(&file(&[meta(0, 2, 1), meta(1, 2, 0), deep])).1, Err(BboltError::Depth(0)));
    // Forty elements that share one bucket of sixty.
    let inner = bucket(0, &leaf(0, &[(false, &b""[..], &b""[..]); 60]));
    let mut crowd = header(2, 2, 40);
    for before in 0..40 {
        for number in [1, (40 - before) * page::ELEMENT as u32, 1, inner.len() as u32] {
            crowd.extend(number.to_le_bytes());
        }
    }
    crowd.extend([b"b", &inner[..]].concat());
    let crowd = file(&[meta(0, 2, 1), meta(1, 2, 0), crowd]);
    let (seen, result) = read(&crowd);
    assert!(seen.len() <= crowd.len() / page::ELEMENT);
    assert!(matches!(result, Err(BboltError::Crowded(_))), "{result:?}");
}

proptest! {
    #[test]
    fn any_damage_is_survived(
        changes in prop::collection::vec((0..8 * SIZE, any::<u8>()), 0..12),
        cut in 0..9 * SIZE,
    ) {
        let mut bytes = sample();
        for (at, byte) in changes {
            // The meta pages stay whole, or nothing else would be looked at.
            if at >= 2 * SIZE && let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
        }
        bytes.truncate(cut);
        let _ = read(&bytes);
    }
}
