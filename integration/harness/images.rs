//! Comparing the images of two nodes, block by block of the data area.

use std::path::Path;
use std::sync::Arc;

use twinfs::base::{BlockNo, ExtentNo};
use twinfs::image::{Disk, Image, OpenOptions};
use twinfs::offline::ReadOnlyFile;

fn open(path: &Path) -> Image {
    let file = ReadOnlyFile::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let disk: Arc<dyn Disk> = Arc::new(file);
    Image::open(disk, &OpenOptions::read_only()).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Blocks whose content differs (or is not readable on one side), 100 at most. A block that was never written equals
/// one of zeros: both read the same.
pub fn differing_blocks(one: &Path, other: &Path) -> Vec<u64> {
    let (one, other) = (open(one), open(other));
    assert_eq!(one.block_count(), other.block_count(), "images of two sizes");
    let mut differing = Vec::new();
    let content = |image: &Image, block: BlockNo| {
        let mut bytes = vec![0; BlockNo::SIZE];
        image.read(block, &mut bytes).ok().map(|()| bytes)
    };
    for extent in (0..one.extent_count()).map(ExtentNo) {
        let (left, right) = (one.extent_page(extent), other.extent_page(extent));
        let (left, right) = (left.expect("digest page"), right.expect("digest page"));
        for (index, pair) in left.digests.iter().zip(&right.digests).enumerate() {
            // Equal digests would not show a block that rotted: content decides wherever something was written.
            if pair == (&None, &None) {
                continue;
            }
            let block = extent.first_block().plus(index as u64);
            let (here, there) = (content(&one, block), content(&other, block));
            if here.is_none() || here != there {
                differing.push(block.0);
                if differing.len() == 100 {
                    return differing;
                }
            }
        }
    }
    differing
}
