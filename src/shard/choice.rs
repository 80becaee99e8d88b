//! Which driver the shards run on: the configured one, or the best that this kernel allows.

use std::fmt;

use super::driver::SocketDriver;
use super::glommio::GlommioDriver;
use super::ring::RingDriver;
use super::unavailable::Unavailable;
use crate::config::IoDriver;

/// A driver that can run here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Chosen {
    /// See [`super::ring`].
    Ring,
    /// See [`super::glommio`].
    Glommio,
}

impl Chosen {
    /// Its name in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Chosen::Ring => "ring",
            Chosen::Glommio => "glommio",
        }
    }
}

/// The driver and why it is this one.
#[derive(Debug)]
pub struct Choice {
    /// The driver.
    pub driver: Chosen,
    /// What its probe found.
    pub found: String,
    /// Why a better one cannot run here.
    pub instead_of: Option<Unavailable>,
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.driver.name(), self.found)?;
        match &self.instead_of {
            Some(why) => write!(f, "; not ring: {why}"),
            None => Ok(()),
        }
    }
}

/// No driver can run as configured.
#[derive(Debug, thiserror::Error)]
pub enum NoDriver {
    /// The configured one.
    #[error("io_driver = \"{driver}\" cannot run here: {why}{}", other_hint(.driver, *.other))]
    Configured {
        /// Its name.
        driver: &'static str,
        /// The cause.
        why: Unavailable,
        /// Another one can.
        other: Option<Chosen>,
    },
    /// Neither of them; mostly for one cause.
    #[error("no io_driver can run here. ring: {ring}. glommio: {glommio}")]
    Neither {
        /// Why not `ring`.
        ring: Box<Unavailable>,
        /// Why not `glommio`.
        glommio: Box<Unavailable>,
    },
}

fn other_hint(driver: &str, other: Option<Chosen>) -> String {
    other.map_or_else(String::new, |other| {
        format!("; io_driver = \"{}\" can, and \"auto\" would take it instead of {driver}", other.name())
    })
}

/// Probes the kernel.
///
/// # Errors
/// Why nothing can run here.
pub fn choose(wanted: IoDriver) -> Result<Choice, NoDriver> {
    choose_with(wanted, RingDriver::probe, GlommioDriver::probe)
}

fn choose_with(
    wanted: IoDriver,
    ring: impl Fn() -> Result<String, Unavailable>,
    glommio: impl Fn() -> Result<String, Unavailable>,
) -> Result<Choice, NoDriver> {
    let choice = |driver, found, instead_of| Ok(Choice { driver, found, instead_of });
    match wanted {
        IoDriver::Auto => match ring() {
            Ok(found) => choice(Chosen::Ring, found, None),
            Err(ring) => match glommio() {
                Ok(found) => choice(Chosen::Glommio, found, Some(ring)),
                Err(glommio) => Err(NoDriver::Neither { ring: ring.into(), glommio: glommio.into() }),
            },
        },
        IoDriver::Ring => match ring() {
            Ok(found) => choice(Chosen::Ring, found, None),
            Err(why) => {
                let other = glommio().is_ok().then_some(Chosen::Glommio);
                Err(NoDriver::Configured { driver: "ring", why, other })
            }
        },
        IoDriver::Glommio => match glommio() {
            Ok(found) => choice(Chosen::Glommio, found, None),
            Err(why) => {
                let other = ring().is_ok().then_some(Chosen::Ring);
                Err(NoDriver::Configured { driver: "glommio", why, other })
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::unavailable::{Needs, explain, too_old};

    const RING: Needs = Needs { driver: "ring", kernel: "6.1", memory_lock: "" };
    const GLOMMIO: Needs = Needs { driver: "glommio", kernel: "5.8", memory_lock: "" };

    fn fine() -> Result<String, Unavailable> {
        Ok("all there".to_owned())
    }

    fn old() -> Result<String, Unavailable> {
        Err(too_old(RING, "multishot receive", "6.0"))
    }

    fn refused() -> Result<String, Unavailable> {
        Err(explain(GLOMMIO, "io_uring_setup", std::io::Error::from_raw_os_error(libc::ENOSYS)))
    }

    #[test]
    fn auto_takes_ring_where_it_can_and_says_why_where_it_cannot() {
        let choice = choose_with(IoDriver::Auto, fine, || panic!("not needed")).unwrap();
        assert_eq!((choice.driver, choice.to_string().as_str()), (Chosen::Ring, "ring (all there)"));
        let choice = choose_with(IoDriver::Auto, old, fine).unwrap();
        let words = choice.to_string();
        assert_eq!(choice.driver, Chosen::Glommio);
        assert!(words.starts_with("glommio (all there); not ring: kernel ") && words.contains("6.0"), "{words}");
    }

    #[test]
    fn a_refusal_names_the_cause_for_each_driver() {
        let words = choose_with(IoDriver::Auto, old, refused).unwrap_err().to_string();
        assert!(words.contains("ring: kernel ") && words.contains("glommio: io_uring does not exist"), "{words}");
        let words = choose_with(IoDriver::Ring, old, fine).unwrap_err().to_string();
        assert!(words.contains("\"ring\" cannot run here") && words.contains("\"glommio\" can"), "{words}");
        let words = choose_with(IoDriver::Glommio, refused, refused).unwrap_err().to_string();
        assert!(words.contains("\"glommio\" cannot run here") && !words.contains("\"auto\""), "{words}");
    }

    #[test]
    fn what_is_asked_for_is_taken() {
        assert_eq!(choose_with(IoDriver::Glommio, fine, fine).unwrap().driver, Chosen::Glommio);
        assert_eq!(choose_with(IoDriver::Ring, fine, fine).unwrap().driver, Chosen::Ring);
    }
}
