// A TPM 2.0 through the ESAPI of tpm2-tss.
#pragma once

#include <memory>
#include <string>

#include "node-agent/tpm/counters.h"
#include "node-agent/tpm/importer.h"
#include "node-agent/tpm/tpm.h"
#include "node-agent/tpm/vault.h"

namespace sealift::agent {

struct EsysTpmOptions {
  // A TCTI in tpm2-tss's form: "device:/dev/tpmrm0", "swtpm:host=127.0.0.1,port=2321". The device one is
  // linked in, so that the agent needs no loadable module beside it; others are loaded by name.
  std::string tcti = "device:/dev/tpmrm0";
};

// One connection to a TPM, for everything that speaks to it. Opaque, thread-safe.
struct TpmDevice;

// Errors: UNAVAILABLE/TPM_UNAVAILABLE.
Result<std::shared_ptr<TpmDevice>> OpenTpmDevice(const EsysTpmOptions& options);

// Shares the connection. Leaves no transient object or session behind. `tls_guard`: kTlsGuardBytes of a
// TlsGuard; the TLS key is made from it and signs only with it. Empty: a TLS key without a guard.
std::unique_ptr<Tpm> MakeEsysTpm(std::shared_ptr<TpmDevice> device, SecretBytes tls_guard = {});
std::unique_ptr<TpmVault> MakeEsysVault(std::shared_ptr<TpmDevice> device);
std::unique_ptr<TpmImporter> MakeEsysImporter(std::shared_ptr<TpmDevice> device);
std::unique_ptr<TpmCounters> MakeEsysCounters(std::shared_ptr<TpmDevice> device);

// Opens the TPM. Holds the connection until destroyed; leaves no transient object or session behind.
// Errors: UNAVAILABLE/TPM_UNAVAILABLE.
Result<std::unique_ptr<Tpm>> OpenEsysTpm(const EsysTpmOptions& options);

}  // namespace sealift::agent
