// Sections of an image that the operator adds from files: microcode, device trees, SBAT lines.
//
// Not thread-safe. UkiParts borrow the bytes from here.
#pragma once

#include <filesystem>
#include <vector>

#include "controller/build/uki_builder.h"
#include "shared/uki/sections.h"

namespace sealift::build {

// What is empty is left out.
struct ExtraSectionFiles {
  // An uncompressed cpio, which the kernel reads before the initrd.
  std::filesystem::path microcode;
  // The device tree, whatever the machine.
  std::filesystem::path device_tree;
  // Device trees of which the stub takes the one that fits the machine, and the list it finds that by.
  std::vector<std::filesystem::path> device_trees_auto;
  std::filesystem::path hardware_ids;
  // Lines in place of our own for the image; those of the stub stay.
  std::filesystem::path sbat;
};

class ExtraSections {
 public:
  // Reads the files. Errors: those of reading; INVALID_ARGUMENT for a file that is plainly something else;
  // UKI_STUB_UNSUPPORTED, naming the option, for a section that this stub does not know.
  static Result<ExtraSections> Read(const ExtraSectionFiles& files, const uki::SystemdMagic& stub);

  // Lends everything to `parts`.
  void AddTo(UkiParts& parts) const;
  // How often an image of the menu is listed in the manifest: with no tree and with each that the stub may
  // take.
  std::size_t measurements_per_image() const { return device_trees_auto_.size() + 1; }

 private:
  Bytes microcode_;
  Bytes device_tree_;
  std::vector<Bytes> device_trees_auto_;
  Bytes hardware_ids_;
  std::string sbat_;
};

}  // namespace sealift::build
