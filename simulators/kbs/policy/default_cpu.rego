# The attestation policy until an administrator sets another: Trustee's rules
# for CPUs. Reference values are set through the KBS.
#
# Values are those of AR4SI: 2 to 31 affirming, 32 to 95 warning, 96 and above
# contraindicated. What no rule recognises is not trusted.
package policy

import rego.v1

trust_claims := {
	"instance-identity": 0,
	"configuration": configuration,
	"executables": executables,
	"file-system": 0,
	"hardware": hardware,
	"runtime-opaque": 0,
	"storage-opaque": 0,
	"sourced-data": 0,
}

default executables := 33

default hardware := 97

default configuration := 36

# A TPM alone says nothing of the hardware around it; its attestation key is
# trusted because the administrator listed it.
executables := 3 if {
	input.tpm.pcr11 in query_reference_value("tpm_pcr11")
	input.tpm.ak_public in query_reference_value("trusted_aks")
}

hardware := 2 if input.tpm

configuration := 0 if input.tpm

# sample
executables := 3 if {
	input.sample.launch_digest in query_reference_value("launch_digest")
}

hardware := 2 if {
	input.sample.svn in query_reference_value("svn")
	input.sample.platform_version.major == query_reference_value("major_version")
	input.sample.platform_version.minor >= query_reference_value("minimum_minor_version")
}

configuration := 2 if input.sample.debug == false

# SEV-SNP
executables := 3 if input.snp.measurement in query_reference_value("snp_launch_measurement")

hardware := 2 if {
	input.snp.reported_tcb_bootloader in query_reference_value("snp_bootloader")
	input.snp.reported_tcb_microcode in query_reference_value("snp_microcode")
	input.snp.reported_tcb_snp in query_reference_value("snp_snp_svn")
	input.snp.reported_tcb_tee in query_reference_value("snp_tee_svn")
}

snp_closed if {
	input.snp.policy_debug_allowed == false
	input.snp.policy_migrate_ma == false
}

configuration := 2 if {
	snp_closed
	input.snp.platform_smt_enabled == query_reference_value("snp_smt_enabled")
	input.snp.platform_tsme_enabled == query_reference_value("snp_tsme_enabled")
	input.snp.policy_abi_major == query_reference_value("snp_guest_abi_major")
	input.snp.policy_abi_minor == query_reference_value("snp_guest_abi_minor")
	input.snp.policy_single_socket == query_reference_value("snp_single_socket")
	input.snp.policy_smt_allowed == query_reference_value("snp_smt_allowed")
} else := 3 if snp_closed

# TDX: with a direct boot of the kernel, or through a boot loader.
tdx_rtmrs if {
	input.tdx.quote.body.rtmr_1 in query_reference_value("rtmr_1")
	input.tdx.quote.body.rtmr_2 in query_reference_value("rtmr_2")
}

tdx_event(event, reference) if {
	some digest in event.digests
	digest.digest == query_reference_value(reference)
}

tdx_kernel if {
	some event in input.tdx.uefi_event_logs
	event.type_name == "EV_EFI_BOOT_SERVICES_APPLICATION"
	"File(kernel)" in event.details.device_paths
	tdx_event(event, "tdvfkernel")
}

tdx_kernel_parameters if {
	some event in input.tdx.uefi_event_logs
	event.type_name == "EV_EVENT_TAG"
	event.details.string == "LOADED_IMAGE::LoadOptions"
	tdx_event(event, "tdvfkernelparams")
}

executables := 3 if {
	tdx_rtmrs
	tdx_kernel
	tdx_kernel_parameters
} else := 4 if tdx_rtmrs

intel_quote(quote) if {
	quote.header.tee_type == "81000000"
	quote.header.vendor_id == "939a7233f79c4ca9940a0db3957f0607"
	quote.body.mr_td in query_reference_value("mr_td")
}

hardware := 2 if {
	intel_quote(input.tdx.quote)
	input.tdx.tcb_status == "UpToDate"
	input.tdx.collateral_expiration_status == "0"
}

configuration := 2 if {
	input.tdx.td_attributes.debug == false
	input.tdx.quote.body.xfam in query_reference_value("xfam")
}

# Azure, SEV-SNP below the vTPM
executables := 3 if {
	input["az-snp-vtpm"].measurement in query_reference_value("measurement")
	input["az-snp-vtpm"].tpm.pcr11 in query_reference_value("snp_pcr11")
}

hardware := 2 if {
	input["az-snp-vtpm"].reported_tcb_bootloader in query_reference_value("tcb_bootloader")
	input["az-snp-vtpm"].reported_tcb_microcode in query_reference_value("tcb_microcode")
	input["az-snp-vtpm"].reported_tcb_snp in query_reference_value("tcb_snp")
	input["az-snp-vtpm"].reported_tcb_tee in query_reference_value("tcb_tee")
}

configuration := 2 if {
	input["az-snp-vtpm"].platform_smt_enabled in query_reference_value("smt_enabled")
	input["az-snp-vtpm"].platform_tsme_enabled in query_reference_value("tsme_enabled")
	input["az-snp-vtpm"].policy_abi_major in query_reference_value("abi_major")
	input["az-snp-vtpm"].policy_abi_minor in query_reference_value("abi_minor")
	input["az-snp-vtpm"].policy_single_socket in query_reference_value("single_socket")
	input["az-snp-vtpm"].policy_smt_allowed in query_reference_value("smt_allowed")
}

# Azure, TDX below the vTPM
executables := 3 if input["az-tdx-vtpm"].tpm.pcr11 in query_reference_value("tdx_pcr11")

hardware := 2 if {
	intel_quote(input["az-tdx-vtpm"].quote)
	input["az-tdx-vtpm"].tcb_status == "UpToDate"
}

configuration := 2 if input["az-tdx-vtpm"].quote.body.xfam in query_reference_value("xfam")

# What goes into the token beside the appraisal: what the measured agent policy says of the containers that may run.
extensions := [{
	"name": "ear.trustee.identifiers",
	"key": -18,
	"value": {"validated": object.union(unless_empty("container_images", images), unless_empty("container_uids", users))},
}]

containers := object.get(input, ["init_data_claims", "agent_policy_claims", "containers"], [])

images := [image | image := containers[_].OCI.Annotations["io.kubernetes.cri.image-name"]]

users := [user | user := containers[_].OCI.Process.User.UID]

unless_empty(name, list) := {name: list} if count(list) > 0

unless_empty(_, []) := {}
