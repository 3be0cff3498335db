//! Single rules of the image.

use super::*;

#[test]
fn what_is_written_is_read_after_a_clean_close() {
    let disk = disk(40 << 20, solo(), 4);
    let blocks = local(&disk);
    for extent in 0..9u64 {
        blocks.write(BlockNo(extent * 1024 + 5), &content(extent, 1)).expect("write");
    }
    blocks.flush().expect("flush");
    assert_eq!(blocks.image().dirty_blocks(), 9);
    blocks.image().close().expect("close");
    drop(blocks);
    let image = open(&disk);
    assert!(!image.was_unclean());
    assert_eq!(image.dirty_blocks(), 9);
    for extent in 0..9u64 {
        assert_eq!(read(&image, extent * 1024 + 5), Ok(content(extent, 1)));
        assert_eq!(read(&image, extent * 1024 + 6), Ok(vec![0; 4096]));
    }
}
