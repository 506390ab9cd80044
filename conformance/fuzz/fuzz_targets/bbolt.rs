//! Pages of a bbolt file behind a valid meta page. What is visited lies inside of the file, and there is no more of it
//! than the file has room for.
#![no_main]

use crosspoint_store::bbolt;
use libfuzzer_sys::fuzz_target;

const SIZE: usize = 512;

fuzz_target!(|pages: &[u8]| {
    let mut file = vec![0; 16];
    for number in [0xED0C_DAED_u32, 2, SIZE as u32, 0] {
        file.extend(number.to_le_bytes());
    }
    // The root is page 2.
    for number in [2_u64, 0, 0, 9, 1] {
        file.extend(number.to_le_bytes());
    }
    let sum = file[16..].iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    file.extend(sum.to_le_bytes());
    file.resize(2 * SIZE, 0);
    file.extend(pages);
    let mut count = 0;
    let _ = bbolt::visit(&file, &mut |path, key, value| {
        count += 1;
        assert!(path.len() <= 8 && key.len() + value.len() <= file.len());
    });
    assert!(count <= file.len() / 16);
});
