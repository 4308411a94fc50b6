#include "node-agent/install/tpm_volumes.h"

namespace sealift::agent {

Status TpmVolumes::Prepare() {
  SEALIFT_ASSIGN_OR_RETURN(options_.epoch_base, NewEpochBase(parts_.counters, image_epoch_));
  return parts_.counters.DefineCounter(kOrderCounter).status();
}

Result<std::filesystem::path> TpmVolumes::Make(const VolumeSpec& spec) {
  SEALIFT_ASSIGN_OR_RETURN(const MadeVolume made, parts_.keeper.Make(spec, options_));
  return made.facts.mapped;
}

Status TpmVolumes::Close(const std::string& name) { return parts_.mapper.Unmap(name); }

}  // namespace sealift::agent
