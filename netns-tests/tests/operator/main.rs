//! What operators do with the manifests of conf/ and the image, under containerd: install, upgrade, swap, remove.

mod install;
mod kube_proxy;
mod reboot;
mod removal;
mod stage;
mod swap;
mod upgrade;
