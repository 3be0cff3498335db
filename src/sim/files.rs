//! The filesystem's workload. (follows with the filesystem)

use std::sync::Arc;

use crate::image::Image;

use super::env::SimEnv;
use super::sched::Owner;
use super::watch::Watched;
use super::world::World;

pub struct Files;

impl Files {
    pub fn format(_image: &Arc<Image>, _blocks: u64) -> Result<(), String> {
        Ok(())
    }

    pub fn open(
        _world: &Arc<World>,
        _owner: Owner,
        _env: &Arc<SimEnv>,
        _blocks: Arc<Watched>,
    ) -> Result<Files, String> {
        Ok(Files)
    }

    pub fn step(&mut self) -> Result<(), String> {
        Ok(())
    }

    pub fn close(self) -> Result<(), String> {
        Ok(())
    }
}
