//! Death, and looking at what it left.

use super::check::{self, Checked};
use super::disk::{self, Fate, Survival};
use super::rng::Rng;
use super::support::plain;
use super::world::World;

impl World {
    /// Something will go wrong soon.
    pub fn danger(&mut self, rng: &mut Rng) {
        let server = rng.one_in(5);
        let n = rng.below(self.nodes.len());
        let (name, machine) = match server {
            true => ("server".to_owned(), self.server_machine),
            false => (format!("node {n}"), self.nodes[n].machine),
        };
        let soon = 1 + rng.below([5, 30, 120][rng.clone().below(3)]) as u64;
        let fate = if self.dangers.errors && rng.one_in(2) {
            Fate::Fail {
                from: soon,
                calls: 1 + rng.below(6) as u64,
                errno: *rng.pick(&[libc::ENOSPC, libc::EIO]),
            }
        } else if self.dangers.death || self.dangers.power {
            Fate::Die(soon)
        } else {
            return;
        };
        self.say(format!("{name} will see {fate:?}"));
        disk::with(|disk| disk.set_fate(machine, Some(fate)));
    }

    /// Death likes to come right after something was promised.
    pub fn strike(&mut self, rng: &mut Rng) {
        let promised = self.promised.take();
        if let Some(n) = promised
            && (self.dangers.death || self.dangers.power)
            && rng.one_in(15)
        {
            let machine = self.nodes[n].machine;
            disk::with(|disk| disk.kill(machine));
        }
    }

    /// Buries who is dead, and lets them rise again.
    pub fn bury(&mut self, rng: &mut Rng) -> Checked {
        for n in 0..self.nodes.len() {
            if !self.dead(n) {
                self.count_failures(n);
                continue;
            }
            for at in 0..self.hosts.len() {
                if self.hosts[at].node == n {
                    self.hosts[at].die();
                    self.net.forget(at);
                }
            }
            let power = self.power(rng);
            let machine = self.nodes[n].machine;
            disk::with(|disk| match power {
                true => disk.lose_power(machine, Survival::Chance, rng),
                false => disk.restart(machine),
            });
            self.say(format!("node {n} died, power lost: {power}"));
            check::after_death(&mut self.nodes[n], power)
                .map_err(|v| format!("node {n} after death: {v}"))?;
            self.base(n)?;
        }
        let machine = self.server_machine;
        if self.server_is_dead() {
            self.server = None;
            let power = self.power(rng);
            disk::with(|disk| match power {
                true => disk.lose_power(machine, Survival::Chance, rng),
                false => disk.restart(machine),
            });
            self.say(format!("server died, power lost: {power}"));
            self.start_server()?;
            check::database(&plain(&self.server_path)).map_err(|violation| format!("remote: {violation}"))?;
        }
        Ok(())
    }

    fn power(&mut self, rng: &mut Rng) -> bool {
        let power = self.dangers.power && (!self.dangers.death || rng.one_in(2));
        self.statistics.deaths += 1;
        self.statistics.power_losses += u64::from(power);
        power
    }

    pub fn look(&mut self, rng: &mut Rng) -> Checked {
        let n = rng.below(self.nodes.len());
        match self.dead(n) {
            true => Ok(()),
            false => self.look_at(n),
        }
    }

    pub fn look_at(&mut self, n: usize) -> Checked {
        let node = &mut self.nodes[n];
        disk::looking(node.machine, || check::node(node))?;
        self.base(n)
    }

    pub fn base(&mut self, n: usize) -> Checked {
        let node = &self.nodes[n];
        let intact = disk::looking(node.machine, || check::base(&node.path, &self.bases));
        self.statistics.checks += 1;
        let intact = intact.map_err(|violation| format!("node {n}: {violation}"))?;
        if intact {
            (self.nodes[n].base_in_doubt, self.nodes[n].copied) = (false, false);
        } else {
            self.statistics.bases_lost += 1;
            if !self.nodes[n].disk_failed && !self.nodes[n].base_in_doubt {
                return Err(format!(
                    "node {n}: the base is lost, although the disk never failed"
                ));
            }
        }
        Ok(())
    }
}
